-- Who is in a fleet, what its policies do, and orders to them.
-- KEYS: [1] processes, [2] orders. ARGV[1]: beat (process, snapshot, milliseconds) answers the orders; ls answers the snapshots;
-- order (policy, verb, milliseconds) answers its number; leave (process).
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local verb = ARGV[1]
if verb == 'beat' then
  redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f', now + tonumber(ARGV[4])) .. '\n' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return redis.call('HGETALL', KEYS[2])
end
if verb == 'ls' then
  local found, all = {}, redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local cut = string.find(all[i + 1], '\n', 1, true)
    if tonumber(string.sub(all[i + 1], 1, cut - 1)) > now then
      found[#found + 1] = all[i]
      found[#found + 1] = string.sub(all[i + 1], cut + 1)
    else
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
  return found
end
if verb == 'order' then
  local number = redis.call('HINCRBY', KEYS[2], '#', 1)
  redis.call('HSET', KEYS[2], 'p:' .. ARGV[2], string.format('%.0f', number) .. ' ' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  return number
end
return redis.call('HDEL', KEYS[1], ARGV[2])
