-- A merged profile becomes a pointer, and what was counted for it goes: KEYS profile, seen, caps; ARGV how the stored
-- value must start, the value ('' deletes), its life (ms). Doing it twice is doing it once.
local have = redis.call('GET', KEYS[1])
if not have or string.sub(have, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
