-- KEYS[1] the demand for one API key by worker; ARGV[1] this worker, ARGV[2] the requests that it got in the last round,
-- ARGV[3] seconds after which a silent worker no longer counts. Returns the demand of all workers, this one included.
-- The store's clock decides, since those of the servers may differ.
local now, total = tonumber(redis.call('TIME')[1]), 0
redis.call('HSET', KEYS[1], ARGV[1], now .. ':' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, demand = string.match(all[i + 1], '^(%d+):(%d+)$')
  if at and now - tonumber(at) <= tonumber(ARGV[3]) then
    total = total + tonumber(demand)
  elseif all[i] ~= ARGV[1] then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return total
