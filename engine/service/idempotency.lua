-- KEYS[1] a request that may come again; ARGV[1] what to keep of it ('' forgets it), ARGV[2] for how many seconds,
-- ARGV[3] what that may replace: '' nothing, '?' any request that has begun, else exactly this.
-- Returns what was kept before, unless it was replaced. (SET … NX GET would do for '', but redis-py makes its reply a
-- boolean.)
local earlier, over = redis.call('GET', KEYS[1]), ARGV[3]
if earlier and not (earlier == over or (over == '?' and string.sub(earlier, 1, 1) == '?')) then return earlier end
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return false
