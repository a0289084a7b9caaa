-- Publishes a snapshot if its version is newer than the one that is there, and thins what is kept for a rollback: of
-- more than LIMIT versions goes the one whose absence widens a gap least, by its age, so that seconds and weeks last.
-- KEYS: headers by key, the current snapshot, kept snapshots by header. ARGV: key, version, header, snapshot, limit.
-- Answers the version that is current afterwards.
local function read(header)
  local version, time = string.match(header, '^(%d+) (%S+)')
  return { header = header, version = tonumber(version), time = tonumber(time) }
end

local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and read(there).version >= tonumber(ARGV[2]) then
  return read(there).version
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
while redis.call('HLEN', KEYS[3]) > tonumber(ARGV[5]) do
  local kept = {}
  for _, header in ipairs(redis.call('HKEYS', KEYS[3])) do
    kept[#kept + 1] = read(header)
  end
  table.sort(kept, function(a, b) return a.version < b.version end)
  local least, at = nil, 1
  for i = 2, #kept - 1 do
    local gap = (kept[i + 1].time - kept[i - 1].time) / (kept[#kept].time - kept[i].time + 1)
    if least == nil or gap < least then
      least, at = gap, i
    end
  end
  redis.call('HDEL', KEYS[3], kept[at].header)
end
return tonumber(ARGV[2])
