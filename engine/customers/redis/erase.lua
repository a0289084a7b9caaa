-- A tombstone where a customer or a way to them was, and nothing else: KEYS profile, seen, caps; ARGV how the stored
-- value must start for that ('' for any; what is not there gets its tombstone too), the tombstone, its life (ms).
local have = redis.call('GET', KEYS[1])
if have and string.sub(have, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
