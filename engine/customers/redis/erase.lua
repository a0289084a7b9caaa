-- Replaces an entry by a tombstone and deletes its counts: KEYS profile, seen, caps, orders, ids, older; ARGV required prefix of the
-- stored value ('' for any; a missing entry gets a tombstone too), the tombstone, its life (ms).
local have = redis.call('GET', KEYS[1])
if have and string.sub(have, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', unpack(KEYS, 2))
return 1
