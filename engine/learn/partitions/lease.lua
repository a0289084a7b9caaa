-- Takes or renews a lease. KEYS: the lease. ARGV: its holder, milliseconds.
-- Returns who has it afterwards.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return held
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
