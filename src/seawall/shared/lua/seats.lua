-- Seats of a bulkhead that processes share: each is leased, and comes back by itself when its holder dies.
-- KEYS[1]: seats by the time at which they expire. ARGV: verb, limit, lease in milliseconds, seats.
-- take answers {granted, taken, milliseconds until the next one expires}; renew answers how many of the seats were lost and could
-- not be taken again; leave answers how many were given back.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local verb, limit, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local expires = string.format('%.0f', now + lease)

if verb == 'take' then
  local taken = redis.call('ZCARD', KEYS[1])
  if taken < limit then
    redis.call('ZADD', KEYS[1], expires, ARGV[4])
    redis.call('PEXPIRE', KEYS[1], lease)
    return {1, taken + 1, 0}
  end
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return {0, taken, math.max(1, tonumber(first[2]) - now)}
end

if verb == 'renew' then
  local lost = 0
  for i = 4, #ARGV do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) or redis.call('ZCARD', KEYS[1]) < limit then
      redis.call('ZADD', KEYS[1], expires, ARGV[i])
    else
      lost = lost + 1
    end
  end
  redis.call('PEXPIRE', KEYS[1], lease)
  return lost
end

local left = 0
for i = 4, #ARGV do left = left + redis.call('ZREM', KEYS[1], ARGV[i]) end
return left
