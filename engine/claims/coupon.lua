-- One transition of an offer's coupon codes. The states and their fields are described in coupons.py.
-- KEYS: codes (hash), claims (sorted set), free codes (list). ARGV: action, now (s), claim id, customer, life (s).
--   import takes codes in place of the claim id and what follows; revoke and find take one code there.
-- Actions and replies:
--   reserve                   0: no code is left; 1: the claim has one; 2: it has one, and is new
--   secure, confirm           0: refused, nothing changed; 1: granted
--   release, undo             1; undo also returns a code that nobody has seen
--   import                    the number of codes that are new
--   revoke                    the state before, or '' for an unknown code
--   redeem                    the claim id of the code, or '' where it is not drawn; takes code and message id
--   undo_redeem               1; takes back the redemption of a code by this message
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
  redis.call('HDEL', KEYS[1], 'h:' .. claim, 'f:' .. claim)
  redis.call('ZADD', KEYS[2], 'GT', now + 86400, claim)
  return claim
elseif action == 'undo_redeem' then
  local code, claim = ARGV[3], get('k:' .. ARGV[3])
  if get('r:' .. code) == ARGV[4] and get('c:' .. code) == 'redeemed' then
    redis.call('HSET', KEYS[1], 'c:' .. code, 'drawn', 'h:' .. claim, code)
    redis.call('HINCRBY', KEYS[1], 'redeemed', -1)
    redis.call('HDEL', KEYS[1], 'r:' .. code, 'd:' .. claim)
  end
  return 1
elseif action == 'count' then
  local function number(field) return tonumber(get(field) or '0') end
  return {redis.call('LLEN', KEYS[3]), number('imported'), number('redeemed'), number('revoked')}
end

local id, who, life = ARGV[3], ARGV[4], tonumber(ARGV[5])
for _, claim in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])) do
  redis.call('HDEL', KEYS[1], 'h:' .. claim, 'd:' .. claim, 'f:' .. claim)
  redis.call('ZREM', KEYS[2], claim)
end
local code = get('h:' .. id)
if get('d:' .. id) then return 1 end

if action == 'reserve' then
  if code then return 1 end
  code = who ~= '' and get('w:' .. who)
  if not (code and get('c:' .. code) == 'drawn') then
    code = redis.call('LPOP', KEYS[3])
    if not code then return 0 end
    redis.call('HSET', KEYS[1], 'c:' .. code, 'drawn', 'f:' .. id, '1')
    if who ~= '' then redis.call('HSET', KEYS[1], 'w:' .. who, code) end
  end
  redis.call('HSET', KEYS[1], 'h:' .. id, code, 'k:' .. code, id)
  redis.call('ZADD', KEYS[2], now + life, id)
  return 2
end
if not code then return (action == 'release' or action == 'undo') and 1 or 0 end
if action == 'secure' then return get('c:' .. code) == 'drawn' and 1 or 0 end
if action == 'confirm' then
  if get('c:' .. code) ~= 'drawn' then return 0 end
  redis.call('HSET', KEYS[1], 'c:' .. code, 'redeemed', 'd:' .. id, code)
  redis.call('HINCRBY', KEYS[1], 'redeemed', 1)
  redis.call('HDEL', KEYS[1], 'h:' .. id, 'f:' .. id)
  return 1
end
if action == 'undo' and get('f:' .. id) and get('c:' .. code) == 'drawn' then
  redis.call('HSET', KEYS[1], 'c:' .. code, 'free')
  redis.call('RPUSH', KEYS[3], code)
  redis.call('HDEL', KEYS[1], 'k:' .. code)
  if who ~= '' then redis.call('HDEL', KEYS[1], 'w:' .. who) end
end
redis.call('HDEL', KEYS[1], 'h:' .. id, 'f:' .. id)
redis.call('ZREM', KEYS[2], id)
return 1
