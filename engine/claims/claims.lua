-- All claims of one request on one customer: KEYS caps, profile; ARGV msgpack of {now, life in ms, counters kept,
-- claims}, a claim {id, checks {{counter, limit, since}}, counters to add to, release, entries kept per counter}.
-- Answers per claim 0 (granted) or the place of the check that failed; or, alone, where the customer went (a text).
local stands = redis.call('GETRANGE', KEYS[2], 0, 24)
local tag = string.sub(stands, 1, 1)
if tag == 'M' or tag == '>' or tag == 'T' then return stands end

local asked = cmsgpack.unpack(ARGV[1])
local now, life, width, claims = asked[1], asked[2], asked[3], asked[4]
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

local function counted(counter, id)
  for _, entry in ipairs(counter and counters[counter] or {}) do
    if entry[2] == id then return true end
  end
  return false
end

local answers = {}
for place, claim in ipairs(claims) do
  local id, checks, adds, release = claim[1], claim[2], claim[3], claim[4]
  local failed = 0
  if not counted(adds[1], id) then
    for i, check in ipairs(checks) do
      local seen = 0
      for _, entry in ipairs(counters[check[1]] or {}) do
        if entry[1] > check[3] then seen = seen + 1 end
      end
      if seen >= check[2] then failed = i break end
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
        for _, check in ipairs(checks) do
          if check[1] == counter and check[2] > most then most = check[2] end
        end
        if #rest > most then
          table.sort(rest, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
          while #rest > most do table.remove(rest, 1) end
        end
        counters[counter] = rest
        changed = true
      end
    end
  end
  answers[place] = failed
end

if changed then
  local names = {}
  for name, entries in pairs(counters) do names[#names + 1] = {entries[#entries][1], name} end
  table.sort(names, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for i = 1, #names - width do counters[names[i][2]] = nil end
  if next(counters) then
    redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', life)
  else
    redis.call('DEL', KEYS[1])
  end
end
return answers
