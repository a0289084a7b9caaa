-- Publishes a snapshot if its version is newer than the current one, and thins the versions stored for a rollback: above
-- the limit it deletes the version whose removal leaves the smallest gap in time relative to its age, so that versions of
-- the last seconds and of weeks ago both stay. The first and the newest version are never deleted.
-- KEYS: headers by selection, the current snapshot, stored snapshots by header.
-- ARGV: selection, version, header, snapshot, limit.
-- Returns the version that is current afterwards.
-- A header that no learner wrote is older than every other.
local function read(header)
  local version, time, learnt = string.match(header, '^(%d+) (%S+) (%S+) %S+ %S+$')
  version, time, learnt = tonumber(version), tonumber(time), tonumber(learnt)
  local most = 2 ^ 53
  if not (version and time and learnt and version <= most and time >= 0 and time <= most and learnt >= 0 and learnt <= most) then
    return { header = header, version = -1, time = 0 }
  end
  return { header = header, version = version, time = time }
end

local current = redis.call('HGET', KEYS[1], ARGV[1])
if current and read(current).version >= tonumber(ARGV[2]) then
  return read(current).version
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
while redis.call('HLEN', KEYS[3]) > tonumber(ARGV[5]) do
  local stored = {}
  for _, header in ipairs(redis.call('HKEYS', KEYS[3])) do
    stored[#stored + 1] = read(header)
  end
  table.sort(stored, function(a, b) return a.version < b.version end)
  local smallest, at = nil, 1
  for i = 2, #stored - 1 do
    local gap = (stored[i + 1].time - stored[i - 1].time) / (stored[#stored].time - stored[i].time + 1)
    if smallest == nil or gap < smallest then
      smallest, at = gap, i
    end
  end
  redis.call('HDEL', KEYS[3], stored[at].header)
end
return tonumber(ARGV[2])
