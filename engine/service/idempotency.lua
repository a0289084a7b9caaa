-- KEYS[1] the idempotency key's entry; ARGV[1] the value to store ('' deletes the entry), ARGV[2] its life in seconds,
-- ARGV[3] which stored value may be replaced: '' none, '?' that of any request in progress, else exactly this one.
-- Returns the stored value if it may not be replaced, else false. (SET ... NX GET would do for '', but redis-py turns
-- its reply into a boolean.)
local stored, replaces = redis.call('GET', KEYS[1]), ARGV[3]
if stored and not (stored == replaces or (replaces == '?' and string.sub(stored, 1, 1) == '?')) then return stored end
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return false
