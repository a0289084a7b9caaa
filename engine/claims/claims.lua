-- Checks and counts all claims of one request on one customer. The format is described in claims.py.
-- KEYS: counters, profile. ARGV[1]: msgpack of {now (s), life (ms), claims}; a claim is
--   {id, checks {{counter, limit, since}}, counters to count on, release, entries stored per counter, zone to mark}.
-- Reply: per claim 0 (granted) or the position of the check that failed; or one string, the prefix of the profile's
-- entry, where the customer moved ('M', '>': to the key that follows) or was erased ('T').
local entry = redis.call('GETRANGE', KEYS[2], 0, 24)
local state = string.sub(entry, 1, 1)
if state == 'M' or state == '>' or state == 'T' then return entry end

local request = cmsgpack.unpack(ARGV[1])
local now, life, claims = request[1], request[2], request[3]
local stored = redis.call('GET', KEYS[1])
local counters = stored and cmsgpack.unpack(stored) or {}
local changed = false

local function without(entries, id)
  local rest = {}
  for _, entry in ipairs(entries) do
    if entry[2] ~= id then rest[#rest + 1] = entry end
  end
  return rest
end

local function is_counted(counter, id)
  for _, entry in ipairs(counter and counters[counter] or {}) do
    if entry[2] == id then return true end
  end
  return false
end

local answers = {}
for position, claim in ipairs(claims) do
  local id, checks, adds, release = claim[1], claim[2], claim[3], claim[4]
  local failed = 0
  if not is_counted(adds[1], id) then  -- a repeated claim is not checked against its own count
    for i, check in ipairs(checks) do
      local count = 0
      for _, entry in ipairs(counters[check[1]] or {}) do
        if entry[1] > check[3] then count = count + 1 end
      end
      if count >= check[2] then failed = i break end
    end
  end
  if failed == 0 then
    for _, counter in ipairs(adds) do
      local entries = counters[counter] or {}
      local before = #entries
      local rest = without(entries, id)
      if release then
        if #rest ~= before then
          counters[counter] = #rest > 0 and rest or nil
          changed = true
        end
      elseif #rest == before then
        rest[before + 1] = {now, id}
        local most = claim[5]
        for _, check in ipairs(checks) do  -- never fewer entries than a cap counts up to
          if check[1] == counter and check[2] > most then most = check[2] end
        end
        if #rest > most then
          table.sort(rest, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
          while #rest > most do table.remove(rest, 1) end
        end
        counters[counter] = rest
        changed = true
        if claim[6] ~= '' then
          local mark = 'zone|' .. claim[6]
          local last = counters[mark] and counters[mark][1][1] or now
          counters[mark] = {{math.max(last, now), id}}
        end
      end
    end
  end
  answers[position] = failed
end

if changed then
  local oldest = now - life / 1000  -- no window is longer than the life of the counters
  for name, entries in pairs(counters) do
    local newest = entries[#entries][1]
    if newest <= oldest then
      for _, entry in ipairs(entries) do newest = math.max(newest, entry[1]) end
      if newest <= oldest then counters[name] = nil end
    end
  end
  if next(counters) then
    redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', life)
  else
    redis.call('DEL', KEYS[1])
  end
end
return answers
