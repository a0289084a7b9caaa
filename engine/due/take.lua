-- Leases the earliest messages of a channel, as many as its capacity allows.
-- KEYS: index (sorted set), minutes (hash). ARGV: now (s), lease (s), limit, capacity ('' for none), period (s).
-- Reply: {left of the capacity or -1, member, due at, member, due at, …}. A leased message is due again when the lease
--   ends: what is not confirmed returns by itself. Each member counts in the minute of `now`, whatever becomes of it.
-- In any `period` that begins at a minute no more than `capacity` are taken: the minute that is cut in two counts whole.
local now, limit, capacity = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local minute = math.floor(now / 60)
local left = -1
if capacity then
  local first, taken = minute - math.ceil(tonumber(ARGV[5]) / 60), 0
  local stored = redis.call('HGETALL', KEYS[2])
  for i = 1, #stored, 2 do
    if tonumber(stored[i]) < first then redis.call('HDEL', KEYS[2], stored[i])
    else taken = taken + tonumber(stored[i + 1]) end
  end
  left = math.max(0, capacity - taken)
  limit = math.min(limit, left)
end
local answer = {left}
if limit > 0 then
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), found[i])
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = found[i + 1]
  end
  if capacity and #found > 0 then
    redis.call('HINCRBY', KEYS[2], minute, #found / 2)
    redis.call('EXPIRE', KEYS[2], 90000)
    answer[1] = left - #found / 2
  end
end
return answer
