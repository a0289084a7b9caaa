-- Replaces one value if it is still the one that was read.
-- KEYS: value. ARGV: value as read ('' for none), new value, life (ms). Reply: 1, or 0 where it was changed.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
