-- Replaces a merged profile by a pointer and deletes its counts: KEYS profile, seen, caps, orders, ids, older; ARGV required prefix of
-- the stored value, new value, its life (ms). Idempotent.
local have = redis.call('GET', KEYS[1])
if not have or string.sub(have, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', unpack(KEYS, 2))
return 1
