-- One transition of one claim in a pool (a stock or a budget). The states and their fields are described in claims.py.
-- KEYS: pool (hash), holds (sorted set). ARGV: action, now (s), life (ms), claim id, amount, least, limit, hold (s).
--   remembered (s), order.
--   least: the amount that must be left before the claim. limit: '' stands for the stored level of a stock.
--   hold: 0 spends at once. Amounts are whole ten-thousandths. remembered: how long a confirmed claim is.
--   order: the digest by which a confirmed claim is found again; '' for none.
-- Actions and replies:
--   reserve, secure, confirm  0: refused, nothing changed; 1: granted; 2: granted, and new to the pool (not by confirm)
--   release, undo             1; undo also gives back what was spent
--   give_back                 1; gives back what was spent, and what is held is confirmed later with an amount of 0
--   level                     1; sets the level of a stock and restarts its count of what was spent
local action, now, life, id = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local amount, least, hold = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8])

local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or '0') end
local function drop_hold(claim)
  redis.call('HINCRBY', KEYS[1], 'held', -number('h:' .. claim))
  redis.call('HDEL', KEYS[1], 'h:' .. claim)
  redis.call('ZREM', KEYS[2], claim)
end
local function forget(claim)
  local order = redis.call('HGET', KEYS[1], 'q:' .. claim)
  if order then
    local others = {}
    for other in string.gmatch(redis.call('HGET', KEYS[1], 'o:' .. order) or '', '[^\n]+') do
      if other ~= claim then others[#others + 1] = other end
    end
    if #others > 0 then
      redis.call('HSET', KEYS[1], 'o:' .. order, table.concat(others, '\n'))
    else
      redis.call('HDEL', KEYS[1], 'o:' .. order)
    end
    redis.call('HDEL', KEYS[1], 'q:' .. claim)
  end
  redis.call('HDEL', KEYS[1], 'd:' .. claim)
  redis.call('ZREM', KEYS[2], claim)
end
-- A refund may name the order alone. The event with the order's id may also come after the claim was spent.
local function note_order(claim)
  if ARGV[10] == '' or redis.call('HEXISTS', KEYS[1], 'q:' .. claim) == 1 then return end
  local others = redis.call('HGET', KEYS[1], 'o:' .. ARGV[10])
  redis.call('HSET', KEYS[1], 'o:' .. ARGV[10], others and others .. '\n' .. claim or claim, 'q:' .. claim, ARGV[10])
end
local function extend_life()
  redis.call('PEXPIRE', KEYS[1], life)
  redis.call('PEXPIRE', KEYS[2], life)
end

-- Holds that ended return their amount; of claims spent long ago only the id is forgotten, `spent` stays.
for _, claim in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])) do
  if redis.call('HEXISTS', KEYS[1], 'h:' .. claim) == 1 then
    drop_hold(claim)
    redis.call('HDEL', KEYS[1], 'f:' .. claim)
  else
    forget(claim)
  end
end

if action == 'level' then
  redis.call('HSET', KEYS[1], 'level', ARGV[5], 'spent', 0)
  extend_life()
  return 1
end

local is_held = redis.call('HEXISTS', KEYS[1], 'h:' .. id) == 1
local is_spent = redis.call('HEXISTS', KEYS[1], 'd:' .. id) == 1
if action == 'release' or action == 'undo' then
  if is_held then
    drop_hold(id)
    redis.call('HDEL', KEYS[1], 'f:' .. id)
  elseif is_spent and action == 'undo' then
    redis.call('HINCRBY', KEYS[1], 'spent', -number('d:' .. id))
    forget(id)
  end
  return 1
end
if action == 'give_back' then
  if is_spent then
    redis.call('HINCRBY', KEYS[1], 'spent', -number('d:' .. id))
    redis.call('HSET', KEYS[1], 'd:' .. id, 0)
  elseif is_held then
    redis.call('HSET', KEYS[1], 'f:' .. id, 1)
  end
  return 1
end
if is_held and action == 'secure' then redis.call('ZADD', KEYS[2], 'GT', now + hold, id) end
if is_spent and action == 'confirm' then note_order(id) end
if is_spent or (is_held and action ~= 'confirm') then return 1 end

if not is_held then
  local whole = ARGV[7] == '' and number('level') or tonumber(ARGV[7])
  local left = whole - number('spent') - number('held')
  if left < amount or left < least then return 0 end
end
if action ~= 'confirm' and hold > 0 then
  redis.call('HINCRBY', KEYS[1], 'held', ARGV[5])
  redis.call('HSET', KEYS[1], 'h:' .. id, ARGV[5])
  redis.call('ZADD', KEYS[2], now + hold, id)
else
  if is_held then
    amount = number('h:' .. id)  -- the amount of the day of the claim, whatever the offer costs now
    drop_hold(id)
  end
  if redis.call('HDEL', KEYS[1], 'f:' .. id) == 1 then amount = 0 end
  redis.call('HINCRBY', KEYS[1], 'spent', amount)
  redis.call('HSET', KEYS[1], 'd:' .. id, amount)
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[9]), id)  -- until then a repeated confirmation is recognized
  note_order(id)
end
extend_life()
return action ~= 'confirm' and 2 or 1
