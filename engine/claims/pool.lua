-- What can run out, stock or budget: KEYS pool, holds; ARGV what to do, now (s), life (ms), id, amount, least that
-- must be left before, limit ('' for the stored level), hold (s; 0 takes it at once). Amounts are whole numbers.
-- reserve, secure, confirm: 1 if it is theirs (however often asked), 0 if not. secure holds it at least so long from
-- now, and says 2 where it was not theirs before. release gives back what is held, undo what was taken too: 1. level:
-- sets it, forgets what went.
local verb, now, life, id = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local amount, least, hold = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8])

local function number(name) return tonumber(redis.call('HGET', KEYS[1], name) or '0') end
local function drop(name)
  redis.call('HINCRBY', KEYS[1], 'held', -number('h:' .. name))
  redis.call('HDEL', KEYS[1], 'h:' .. name)
  redis.call('ZREM', KEYS[2], name)
end
local function keep()
  redis.call('PEXPIRE', KEYS[1], life)
  redis.call('PEXPIRE', KEYS[2], life)
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])) do
  if redis.call('HEXISTS', KEYS[1], 'h:' .. name) == 1 then drop(name)
  else redis.call('ZREM', KEYS[2], name) redis.call('HDEL', KEYS[1], 'd:' .. name) end
end

if verb == 'level' then
  redis.call('HSET', KEYS[1], 'level', ARGV[5], 'spent', 0)
  keep()
  return 1
end

local held = redis.call('HEXISTS', KEYS[1], 'h:' .. id) == 1
local done = redis.call('HEXISTS', KEYS[1], 'd:' .. id) == 1
if verb == 'release' or verb == 'undo' then
  if held then
    drop(id)
  elseif done and verb == 'undo' then
    redis.call('HINCRBY', KEYS[1], 'spent', -number('d:' .. id))
    redis.call('HDEL', KEYS[1], 'd:' .. id)
    redis.call('ZREM', KEYS[2], id)
  end
  return 1
end
if held and verb == 'secure' then redis.call('ZADD', KEYS[2], 'GT', now + hold, id) end
if done or (held and verb ~= 'confirm') then return 1 end

if not held then
  local whole = ARGV[7] == '' and number('level') or tonumber(ARGV[7])
  local left = whole - number('spent') - number('held')
  if left < amount or left < least then return 0 end
end
if verb ~= 'confirm' and hold > 0 then
  redis.call('HINCRBY', KEYS[1], 'held', ARGV[5])
  redis.call('HSET', KEYS[1], 'h:' .. id, ARGV[5])
  redis.call('ZADD', KEYS[2], now + hold, id)
else
  if held then
    amount = number('h:' .. id)
    drop(id)
  end
  redis.call('HINCRBY', KEYS[1], 'spent', amount)
  redis.call('HSET', KEYS[1], 'd:' .. id, amount)
  redis.call('ZADD', KEYS[2], now + 86400, id)
end
keep()
return verb ~= 'confirm' and 2 or 1
