-- Writes an entry if the stored one is unchanged: KEYS profile, seen, caps, orders, ids, older; ARGV required prefix of the stored value
-- ('' if none may exist), new value, its life (ms), message digests to store ('' leaves the stored ones), their life
-- (ms), counts to add ('' for none), their life (ms), archived orders to store ('' leaves the stored ones), archived
-- identifiers to add ('' for none), older digests to add with their times ('' for none), the time (s) before which older
-- digests are dropped. The archive lives as long as the value, older digests as long as the stored ones.
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
if ARGV[8] ~= '' then redis.call('SET', KEYS[4], ARGV[8], 'PX', ARGV[3]) end
if ARGV[9] ~= '' then
  for _, member in ipairs(cmsgpack.unpack(ARGV[9])) do redis.call('SADD', KEYS[5], member) end
end
if ARGV[10] and ARGV[10] ~= '' then
  local pairs_ = cmsgpack.unpack(ARGV[10])
  for i = 1, #pairs_, 2 do redis.call('ZADD', KEYS[6], pairs_[i], pairs_[i + 1]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', '(' .. ARGV[11])
  redis.call('PEXPIRE', KEYS[6], ARGV[5])
end
redis.call('PEXPIRE', KEYS[4], ARGV[3])
redis.call('PEXPIRE', KEYS[5], 2 * ARGV[3])
return 1
