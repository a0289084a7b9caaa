-- Adds the offers that one event redeems to those of its order, all or none.
-- KEYS: order (hash: offer -> msgpack of {message id, names of its rules}).
-- ARGV[1]: msgpack of {action, message id, life (s), offers}; an offer is {key, {{name of a rule, most, place}}}.
-- Actions: admit refuses what a rule does not allow; record adds it all the same; undo takes back what the message added.
-- Reply: {} where no rule is broken; else {rule, most, new offer, offers that the order has under the rule}.
local action, message, life, offers = unpack(cmsgpack.unpack(ARGV[1]))
local entries = {}
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do entries[stored[i]] = cmsgpack.unpack(stored[i + 1]) end

if action == 'undo' then
  for _, offer in ipairs(offers) do
    local entry = entries[offer[1]]
    if entry and entry[1] == message then redis.call('HDEL', KEYS[1], offer[1]) end
  end
  return {}
end

local broken = {}
for _, offer in ipairs(offers) do
  local key, names = offer[1], {}
  if not entries[key] then
    for _, rule in ipairs(offer[2]) do
      local name, others = rule[1], {}
      names[#names + 1] = name
      for other, entry in pairs(entries) do
        for _, of in ipairs(entry[2]) do
          if of == name then others[#others + 1] = other break end
        end
      end
      if #others >= rule[2] and not broken[1] then
        table.sort(others)
        broken = {name, rule[2], key, unpack(others)}
      end
    end
    entries[key] = {message, names, true}
  end
end
if broken[1] and action == 'admit' then return broken end
for key, entry in pairs(entries) do
  if entry[3] then redis.call('HSET', KEYS[1], key, cmsgpack.pack({entry[1], entry[2]})) end
end
redis.call('EXPIRE', KEYS[1], life)
return broken
