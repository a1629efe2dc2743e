-- Votes on one circuit, of one zone: each process says whether its own circuit is open, for a while.
-- KEYS[1]: votes by process, and "verdict". ARGV: process, 1 when open, milliseconds that the vote lasts, share, least voters.
-- Answers {verdict's number, 1 while it holds, open votes, live voters}. A verdict begins when the share is reached and ends when
-- it is no more; the next one has the next number.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local lasts = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'v:' .. ARGV[1], string.format('%.0f', now + lasts) .. ':' .. ARGV[2])
local live, open, number, holds = 0, 0, 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] == 'verdict' then
    local n, h = string.match(all[i + 1], '^(%d+):(%d)$')
    number, holds = tonumber(n), tonumber(h)
  else
    local expires, state = string.match(all[i + 1], '^(%d+):(%d)$')
    if tonumber(expires) <= now then redis.call('HDEL', KEYS[1], all[i])
    else
      live = live + 1
      open = open + tonumber(state)
    end
  end
end
local reached = live >= tonumber(ARGV[5]) and open >= live * tonumber(ARGV[4])
if reached and holds == 0 then number, holds = number + 1, 1 elseif not reached then holds = 0 end
redis.call('HSET', KEYS[1], 'verdict', string.format('%.0f:%d', number, holds))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lasts * 100))
return {number, holds, open, live}
