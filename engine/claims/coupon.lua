-- One transition of an offer's coupon codes. The states and their fields are described in coupons.py.
-- KEYS: codes (hash), claims (sorted set), free codes (list). ARGV: action, now (s), claim id, customer, life (s), and
--   to reserve the customers that were merged into this one.
--   import takes codes in place of the claim id and what follows; revoke takes one code there.
-- Actions and replies:
--   reserve                   0: no code is left; 1: the claim has one; 2: it has one, and is new
--   show                      the code of the claim, which is about to be answered; '' if it has none
--   secure, confirm           0: refused, nothing changed; 1: granted
--   release, undo             1; undo also returns a code that was never shown
--   import                    the number of codes that are new
--   revoke                    the state before, or '' for an unknown code
--   redeem                    the claim that showed the code last, or '' where it is not valid; takes code and message
--   undo_redeem               1; takes back the redemption of a code by this message, unless that was confirmed
--   count                     {free, imported, redeemed, revoked}
local action, now = ARGV[1], tonumber(ARGV[2])
local function get(field) return redis.call('HGET', KEYS[1], field) end

if action == 'import' then
  local new = 0
  for i = 3, #ARGV do
    if redis.call('HSETNX', KEYS[1], 'c:' .. ARGV[i], 'free') == 1 then
      redis.call('RPUSH', KEYS[3], ARGV[i])
      new = new + 1
    end
  end
  redis.call('HINCRBY', KEYS[1], 'imported', new)
  return new
elseif action == 'revoke' then
  local state = get('c:' .. ARGV[3])
  if not state then return '' end
  if state == 'free' then redis.call('LREM', KEYS[3], 1, ARGV[3]) end
  if state == 'free' or state == 'drawn' then
    redis.call('HSET', KEYS[1], 'c:' .. ARGV[3], 'revoked')
    redis.call('HINCRBY', KEYS[1], 'revoked', 1)
  end
  return state
elseif action == 'redeem' then
  local code, message = ARGV[3], ARGV[4]
  local state, claim = get('c:' .. code), get('k:' .. code)
  if not claim then return '' end
  if state == 'redeemed' and get('r:' .. code) == message then return claim end
  if state ~= 'drawn' then return '' end
  redis.call('HSET', KEYS[1], 'c:' .. code, 'redeemed', 'r:' .. code, message, 'd:' .. claim, code)
  redis.call('HINCRBY', KEYS[1], 'redeemed', 1)
  redis.call('HDEL', KEYS[1], 'h:' .. claim)
  redis.call('ZADD', KEYS[2], 'GT', now + 86400, claim)
  return claim
elseif action == 'undo_redeem' then
  local code, claim = ARGV[3], get('k:' .. ARGV[3])
  if get('r:' .. code) == ARGV[4] and get('c:' .. code) == 'redeemed' and not get('b:' .. code) then
    redis.call('HSET', KEYS[1], 'c:' .. code, 'drawn', 'h:' .. claim, code)
    redis.call('HINCRBY', KEYS[1], 'redeemed', -1)
    redis.call('HDEL', KEYS[1], 'r:' .. code, 'd:' .. claim)
  end
  return 1
elseif action == 'count' then
  local function number(field) return tonumber(get(field) or '0') end
  return {redis.call('LLEN', KEYS[3]), number('imported'), number('redeemed'), number('revoked')}
end

-- From here on a claim that is not shown counts in `n:CODE`: a code is free again with the last of them, and only if
-- it was never shown. Two decisions of one customer share their code, and either of them may be refused first.
local function end_unseen(claim, code)
  if redis.call('HDEL', KEYS[1], 'u:' .. claim) == 0 then return false end
  if code and redis.call('HINCRBY', KEYS[1], 'n:' .. code, -1) <= 0 then redis.call('HDEL', KEYS[1], 'n:' .. code) end
  return true
end

local id, who, life = ARGV[3], ARGV[4], tonumber(ARGV[5])
for _, claim in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])) do
  end_unseen(claim, get('h:' .. claim))
  redis.call('HDEL', KEYS[1], 'h:' .. claim, 'd:' .. claim)
  redis.call('ZREM', KEYS[2], claim)
end
local code = get('h:' .. id)
local redeemed = get('d:' .. id)
if redeemed then
  -- The event that redeemed the code is stored: it stays redeemed, whatever becomes of a later delivery.
  if action == 'secure' or action == 'confirm' then redis.call('HSET', KEYS[1], 'b:' .. redeemed, '1') end
  return action == 'show' and '' or 1
end

if action == 'reserve' then
  if code then return 1 end
  local function valid_of(customer)
    local own = get('w:' .. customer)
    return own and get('c:' .. own) == 'drawn' and own
  end
  code = valid_of(who)
  for i = 6, #ARGV do
    code = code or valid_of(ARGV[i])
    if code and get('w:' .. ARGV[i]) == code then redis.call('HDEL', KEYS[1], 'w:' .. ARGV[i]) end
  end
  if not code then
    code = redis.call('LPOP', KEYS[3])
    if not code then return 0 end
    redis.call('HSET', KEYS[1], 'c:' .. code, 'drawn')
  end
  redis.call('HSET', KEYS[1], 'w:' .. who, code)
  redis.call('HSET', KEYS[1], 'h:' .. id, code, 'u:' .. id, '1')
  redis.call('HINCRBY', KEYS[1], 'n:' .. code, 1)
  redis.call('ZADD', KEYS[2], now + life, id)
  return 2
elseif action == 'show' then
  if code and end_unseen(id, code) and get('c:' .. code) == 'drawn' then
    redis.call('HSET', KEYS[1], 'k:' .. code, id)
  end
  return code or ''
elseif action == 'release' then
  return 1  -- a refused offer may be bought later: its claim ends with its life
elseif action == 'undo' then
  if not (code and end_unseen(id, code)) then return 1 end
  redis.call('HDEL', KEYS[1], 'h:' .. id)
  redis.call('ZREM', KEYS[2], id)
  if get('c:' .. code) == 'drawn' and not get('k:' .. code) and not get('n:' .. code) and get('w:' .. who) == code then
    redis.call('HSET', KEYS[1], 'c:' .. code, 'free')
    redis.call('RPUSH', KEYS[3], code)
    redis.call('HDEL', KEYS[1], 'w:' .. who)
  end
  return 1
end
if not code or get('c:' .. code) ~= 'drawn' then return 0 end
if action == 'confirm' then
  redis.call('HSET', KEYS[1], 'c:' .. code, 'redeemed', 'd:' .. id, code)
  redis.call('HINCRBY', KEYS[1], 'redeemed', 1)
  end_unseen(id, code)
  redis.call('HDEL', KEYS[1], 'h:' .. id)
end
return 1
