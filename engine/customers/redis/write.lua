-- Write a customer if nobody else did: KEYS profile, seen, caps; ARGV how the stored value must start ('' for none),
-- the value, its life (ms), seen ids to store ('' leaves them), their life (ms), caps to add ('' for none), their life.
local have = redis.call('GET', KEYS[1])
if ARGV[1] == '' then
  if have then return 0 end
elseif not have or string.sub(have, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5]) end
if ARGV[6] ~= '' then
  local ours = redis.call('GET', KEYS[3])
  local all = ours and cmsgpack.unpack(ours) or {}
  for counter, times in pairs(cmsgpack.unpack(ARGV[6])) do
    local list = all[counter] or {}
    for _, entry in ipairs(times) do list[#list + 1] = entry end
    all[counter] = list
  end
  redis.call('SET', KEYS[3], cmsgpack.pack(all), 'PX', ARGV[7])
end
return 1
