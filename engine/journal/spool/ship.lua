-- One batch of a spool into the stream of its partition, if it follows what is already there: a repeated call adds
-- nothing, and a store that lost its last entries gets them again in their order.
-- KEYS: stream, last sequence numbers by spool. ARGV: spool, the number this follows, its last number, its frames.
-- Answers the spool's last number that is now in the stream.
local there = redis.call('HGET', KEYS[2], ARGV[1]) or '0'
if there ~= ARGV[2] then
  return there
end
local entry = redis.call('XADD', KEYS[1], '*', 's', ARGV[1], 'p', ARGV[2], 'f', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3], 'last', entry)
return ARGV[3]
