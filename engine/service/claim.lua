-- KEYS[1] a request that may come again; ARGV[1] its answer if it is new, ARGV[2] how many seconds to keep that.
-- Returns the answer it had before. (SET … NX GET would do, but redis-py turns its reply into a boolean.)
local earlier = redis.call('GET', KEYS[1])
if not earlier then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return earlier
