-- One step of any number of limiters, decided in order, each all or nothing. The same rules as policies/ hold, in whole numbers.
-- ARGV[i] is one ask, as doubles: verb, cost, x, y, waits, parts; then for each part: algorithm and six numbers.
-- KEYS are the parts' keys, in order. Answers five numbers for each ask: granted, wait, remaining, reset (microseconds; -1 is
-- never), the part that binds (from 0); and at the end the server's time in microseconds.
-- Nothing is written for what is refused. Every key has a TTL: it vanishes when its state says nothing any more.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- The quick way, for what comes most: takes and looks at one token bucket each. It stands before all functions, because making
-- those for every call would cost three times as much as deciding. What it decides, the long way would decide alike.

local asks, quick = {}, true
for i = 1, #ARGV do
  local verb, cost, _, _, waits, count, alg, a, b, c = struct.unpack('>dddddddddd', ARGV[i])
  if verb > 1 or count ~= 1 or alg ~= 1 or c ~= 1000 then quick = false break end
  asks[i] = {verb, cost, waits, a, b}
end

if quick then
  local answer, held = {}, {}
  for i = 1, #ARGV do
    local verb, cost, waits, a, b = unpack(asks[i])
    local key, debt, back = KEYS[i], 0, false
    local raw = redis.call('GET', key)
    if raw then
      local at, was, interval, scale = string.match(raw, '^(%d+):(%d+):(%d+):?(%d*)$')
      at, scale = tonumber(at), tonumber(scale) or 1000
      back = at > now
      debt = tonumber(was)
      if not back then debt = debt - (now - at) * scale end
      if debt < 0 then debt = 0 end
      if tonumber(interval) ~= a or scale ~= 1000 then debt = math.min(math.ceil(debt * a / tonumber(interval)), b) end
    end
    local need, granted, wait = cost * a, 1, 0
    local over = debt + need - b
    if cost > 0 and need > b then granted, wait = 0, -1
    elseif cost > 0 and over > 0 then granted, wait = 0, math.ceil(over / 1000)
    elseif cost > 0 and verb == 1 and held[key] then granted, wait = 0, 1 end
    if verb == 1 and granted == 1 and cost > 0 then
      debt = debt + need
      local ttl = string.format('%.0f', math.max(1, math.ceil(debt / 1000000)))
      redis.call('SET', key, string.format('%.0f:%.0f:%.0f', now, debt, a), 'PX', ttl)
    elseif verb == 1 then
      if back and debt > 0 then
        local ttl = string.format('%.0f', math.max(1, math.ceil(debt / 1000000)))
        redis.call('SET', key, string.format('%.0f:%.0f:%.0f', now, debt, a), 'PX', ttl)
      end
      if waits > 0 and granted == 0 and over > 0 then held[key] = true end
    end
    local n = i * 5
    answer[n - 4], answer[n - 3], answer[n - 2] = granted, wait, math.max(0, math.floor((b - debt) / a))
    answer[n - 1], answer[n] = math.ceil(debt / 1000), 0
  end
  answer[#answer + 1] = now
  return answer
end

local NEVER = -1
local PEEK, TAKE, CHARGE, HOLD, RESET, LEASE = 0, 1, 2, 3, 4, 5
local BUCKET, SHAPER, SLIDING, LOG, FIXED, CALENDAR = 1, 2, 3, 4, 5, 6
local max, min, floor, ceil = math.max, math.min, math.floor, math.ceil

local function text(...)
  local parts = {...}
  for i = 1, #parts do parts[i] = string.format('%.0f', parts[i]) end
  return table.concat(parts, ':')
end

local function keep(key, value, micros)
  redis.call('SET', key, value, 'PX', string.format('%.0f', max(1, ceil(micros / 1000))))
end

-- token bucket and shaper: "when:debt:interval[:scale]". a interval, b tolerance, c units of a in a microsecond.
-- Debt is what would have to drain for the bucket to be full; it is kept in units when the interval changes.

local function read_bucket(s)
  s.debt, s.back = 0, false
  local raw = redis.call('GET', s.key)
  if not raw then return end
  local at, debt, interval, scale = string.match(raw, '^(%d+):(%d+):(%d+):?(%d*)$')
  at, debt, interval = tonumber(at), tonumber(debt), tonumber(interval)
  scale = tonumber(scale) or 1000
  s.back = at > now
  debt = max(0, debt - max(0, now - at) * scale)
  if interval ~= s.a or scale ~= s.c then debt = min(ceil(debt * s.a / interval), s.b) end
  s.debt = debt
end

local function write_bucket(s)
  if s.debt <= 0 then redis.call('DEL', s.key) return end
  local value = text(now, s.debt, s.a)
  if s.c ~= 1000 then value = value .. ':' .. text(s.c) end
  keep(s.key, value, s.debt / s.c)
end

local function wait_bucket(s, n)
  if n == 0 then return 0 end
  if n * s.a > s.b then return NEVER end
  local over = s.debt
  if s.alg == BUCKET then over = s.debt + n * s.a - s.b end
  return max(0, ceil(over / s.c))
end

local function remaining_bucket(s)
  if s.alg == SHAPER then return s.debt <= 0 and 1 or 0 end
  return max(0, floor((s.b - s.debt) / s.a))
end

local function hold_bucket(s, until_at)
  local floor_debt = (until_at - now) * s.c
  if s.alg == BUCKET then floor_debt = floor_debt + s.b - s.a end
  s.debt = max(s.debt, floor_debt)
end

-- windows: "begin:used:previous:held:length". a count, b length; a calendar has the bounds of three windows in b, c, d, e.

local function window_of(s, moment)
  if s.alg ~= CALENDAR then
    local begin = floor(moment / s.b) * s.b
    return begin, begin + s.b
  end
  if moment < s.c then return s.b, s.c end
  if moment < s.d then return s.c, s.d end
  return s.d, s.e
end

local function move_window(s, moment)
  local begin, finish = window_of(s, moment)
  if begin <= s.begin then return s.begin, s.begin + (s.finish - s.begin), s.used, s.previous end
  local previous = 0
  if s.alg == SLIDING and begin == s.finish then previous = s.used end
  return begin, finish, 0, previous
end

local function read_window(s)
  local begin, finish = window_of(s, now)
  s.begin, s.finish, s.used, s.previous, s.held = begin, finish, 0, 0, 0
  local raw = redis.call('GET', s.key)
  if not raw then return end
  local at, used, previous, held, length = string.match(raw, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  at, used, previous, held, length = tonumber(at), tonumber(used), tonumber(previous), tonumber(held), tonumber(length)
  s.held = held
  if s.alg ~= CALENDAR and length ~= s.b then
    local over = now - at - length
    if over >= 0 then
      previous, used = (over < length) and used or 0, 0
      at = at + length * (1 + floor(over / length))
    end
    if s.alg == SLIDING then used = used + ceil(previous * max(0, min(length, at + length - now)) / length) end
    s.used = used
    return
  end
  if at > begin and at - begin > 2 * length then at = begin end -- a clock that jumped far back
  s.begin, s.finish, s.used, s.previous = at, at + length, used, previous
  s.begin, s.finish, s.used, s.previous = move_window(s, now)
end

local function reset_window(s)
  local finish = now
  if s.used > 0 then finish = s.finish elseif s.previous > 0 then finish = s.finish end
  if s.alg == SLIDING and s.used > 0 then finish = finish + (s.finish - s.begin) end
  return max(0, max(finish, s.held) - now)
end

local function write_window(s)
  local left = reset_window(s)
  if left <= 0 then redis.call('DEL', s.key) return end
  keep(s.key, text(s.begin, s.used, s.previous, s.held, s.finish - s.begin), left)
end

local function wait_window(s, n)
  if n > s.a then return NEVER end
  if n == 0 then return 0 end
  local moment = max(now, s.held, s.begin)
  if s.alg ~= SLIDING then
    local _, finish, used = move_window(s, moment)
    if used + n > s.a then moment = finish end
    return moment - now
  end
  while true do
    local begin, finish, used, previous = move_window(s, moment)
    local length, room = finish - begin, s.a - used - n
    local share = -1
    if room >= 0 then share = (previous <= room) and length or floor(room * length / previous) end
    if moment >= finish - share then return moment - now end
    moment = min(finish - share, finish)
  end
end

local function remaining_window(s)
  if s.held > now then return 0 end
  local length = s.finish - s.begin
  local covered = min(length, s.finish - now)
  return max(0, floor((s.a * length - s.previous * covered) / length) - s.used)
end

local function refund_window(s, n, since)
  if since >= s.begin and since < s.finish then
    s.used = max(0, s.used - n)
  elseif s.alg == SLIDING and since >= s.begin - (s.finish - s.begin) and since < s.begin then
    s.previous = max(0, s.previous - n)
  end
end

-- sliding log: a list of "moment:cost:sum of all costs up to here"; a first element "held:until" while the key is held.
-- a count, b length.

local function entry(raw)
  local at, cost, sum = string.match(raw, '^(%d+):(%d+):(%d+)$')
  return tonumber(at), tonumber(cost), tonumber(sum)
end

local function read_log(s)
  s.held, s.used, s.last = 0, 0, nil
  local first = redis.call('LINDEX', s.key, 0)
  if first and string.sub(first, 1, 5) == 'held:' then
    s.held = tonumber(string.sub(first, 6))
    first = redis.call('LINDEX', s.key, 1)
  end
  s.offset = s.held > 0 and 1 or 0
  s.skip = 0
  while first do
    local at, cost, sum = entry(first)
    if at > now - s.b then
      s.before = sum - cost
      break
    end
    s.skip = s.skip + 1
    first = redis.call('LINDEX', s.key, s.offset + s.skip)
  end
  if first then
    local at, _, sum = entry(redis.call('LINDEX', s.key, -1))
    s.last, s.sum, s.used = at, sum, sum - s.before
  end
end

local function trim_log(s) -- forget what is too old, and a hold that is over; only when something is written anyway
  if s.offset == 1 then redis.call('LPOP', s.key) end
  if s.last == nil then redis.call('DEL', s.key)
  elseif s.skip > 0 then redis.call('LTRIM', s.key, s.skip, -1) end
  if s.held > now then redis.call('LPUSH', s.key, 'held:' .. text(s.held)) else s.held = 0 end
  s.offset, s.skip = s.held > 0 and 1 or 0, 0
end

local function reset_log(s)
  local finish = s.last and s.last + s.b or now
  return max(0, max(finish, s.held) - now)
end

local function expire_log(s)
  local left = reset_log(s)
  if left <= 0 then redis.call('DEL', s.key) return end
  redis.call('PEXPIRE', s.key, string.format('%.0f', max(1, ceil(left / 1000))))
end

local function wait_log(s, n)
  if n > s.a then return NEVER end
  if n == 0 then return 0 end
  local moment, excess, index = max(now, s.held), s.used + n - s.a, s.offset + s.skip
  while excess > 0 do
    local some = redis.call('LRANGE', s.key, index, index + 63)
    if #some == 0 then break end
    for i = 1, #some do
      local at, cost = entry(some[i])
      if excess <= 0 then break end
      excess = excess - cost
      moment = max(moment, at + s.b)
    end
    index = index + 64
  end
  return moment - now
end

local function spend_log(s, n)
  trim_log(s)
  local at, sum = now, s.last and s.sum or 0
  if s.last and s.last >= now then -- the same moment, or a clock that went back: one larger entry
    local last, cost = entry(redis.call('LINDEX', s.key, -1))
    redis.call('LSET', s.key, -1, text(last, cost + n, sum + n))
    at = last
  else
    redis.call('RPUSH', s.key, text(at, n, sum + n))
  end
  s.last, s.sum, s.used = at, sum + n, s.used + n
end

local function refund_log(s, n, since)
  trim_log(s)
  local index, found = -1, nil
  local later = {}
  while true do
    local raw = redis.call('LINDEX', s.key, index)
    if not raw or string.sub(raw, 1, 5) == 'held:' then break end
    local at, cost, sum = entry(raw)
    if at < since then break end
    later[#later + 1] = {index, at, cost, sum}
    found = #later
    index = index - 1
  end
  if not found then return end
  local back = min(n, later[found][3])
  later[found][3] = later[found][3] - back
  for i = 1, found do redis.call('LSET', s.key, later[i][1], text(later[i][2], later[i][3], later[i][4] - back)) end
  s.used, s.sum = s.used - back, s.sum - back
  if later[found][3] == 0 then
    redis.call('LSET', s.key, later[found][1], 'gone')
    redis.call('LREM', s.key, -1, 'gone')
    local newest = redis.call('LINDEX', s.key, -1)
    s.last = nil
    if newest and string.sub(newest, 1, 5) ~= 'held:' then s.last = entry(newest) end
  end
end

-- the same verbs for all

local function read(s)
  if s.alg <= SHAPER then read_bucket(s) elseif s.alg == LOG then read_log(s) else read_window(s) end
end

local function wait(s, n)
  if s.alg <= SHAPER then return wait_bucket(s, n) end
  if s.alg == LOG then return wait_log(s, n) end
  return wait_window(s, n)
end

local function remaining(s)
  if s.alg <= SHAPER then return remaining_bucket(s) end
  if s.alg == LOG then return s.held > now and 0 or max(0, s.a - s.used) end
  return remaining_window(s)
end

local function reset(s)
  if s.alg <= SHAPER then return ceil(s.debt / s.c) end
  if s.alg == LOG then return reset_log(s) end
  return reset_window(s)
end

local function write(s)
  if s.alg <= SHAPER then write_bucket(s) elseif s.alg == LOG then expire_log(s) else write_window(s) end
end

local function spend(s, n)
  if s.alg <= SHAPER then s.debt = s.debt + n * s.a
  elseif s.alg == LOG then spend_log(s, n)
  else s.used = s.used + n end
  write(s)
end

local function refund(s, n, since)
  if s.alg <= SHAPER then s.debt = max(0, s.debt - n * s.a)
  elseif s.alg == LOG then refund_log(s, n, since)
  else refund_window(s, n, since) end
  write(s)
end

local function hold(s, until_at)
  if s.alg <= SHAPER then hold_bucket(s, until_at)
  elseif s.alg == LOG then s.held = max(s.held, until_at) trim_log(s)
  else s.held = max(s.held, until_at) end
  write(s)
end

-- one ask after another

local blocked = {} -- keys at which an earlier ask of this batch stands in line, so that nobody overtakes it

local function decide(parts, verb, cost, waits)
  local longest, binding, behind = 0, 0, false
  for i = 1, #parts do
    local pause = wait(parts[i], cost)
    if pause ~= 0 and longest ~= NEVER and (pause == NEVER or pause > longest) then longest, binding = pause, i - 1 end
    behind = behind or (verb == TAKE and cost > 0 and blocked[parts[i].key])
  end
  if longest == 0 and not behind and verb == TAKE and cost > 0 then
    for i = 1, #parts do spend(parts[i], cost) end
  elseif verb == TAKE then
    for i = 1, #parts do
      if parts[i].back then write(parts[i]) end
      if waits > 0 and longest > 0 then blocked[parts[i].key] = true end
    end
  end
  if longest == 0 and not behind then return 1, 0, binding end
  return 0, (longest == 0) and 1 or longest, binding
end

local function lease(part, want, least, unused)
  if unused > 0 then refund(part, unused, now) end
  local n = min(want, remaining(part))
  if n >= least then
    spend(part, n)
    return n, 0
  end
  return 0, wait(part, least)
end

local function apply(parts, verb, cost, x, y, waits)
  if verb == PEEK or verb == TAKE then return decide(parts, verb, cost, waits) end
  if verb == LEASE then
    local granted, pause = lease(parts[1], cost, x, y)
    return granted, pause, 0
  end
  for i = 1, #parts do
    if verb == RESET then
      redis.call('DEL', parts[i].key)
      read(parts[i])
    elseif verb == HOLD then hold(parts[i], now + x)
    elseif x > 0 then spend(parts[i], x)
    elseif x < 0 then refund(parts[i], -x, y) end
  end
  return 1, 0, 0
end

local function summary(parts, binding, allowed)
  local least, longest = nil, 0
  for i = 1, #parts do
    local left = remaining(parts[i])
    if least == nil or left < least then
      least = left
      if allowed == 1 then binding = i - 1 end
    end
    longest = max(longest, reset(parts[i]))
  end
  return least or 0, longest, binding
end

local answer, place = {}, 1
for i = 1, #ARGV do
  local verb, cost, x, y, waits, count, position = struct.unpack('>dddddd', ARGV[i])
  local parts = {}
  for p = 1, count do
    local s = {key = KEYS[place]}
    s.alg, s.a, s.b, s.c, s.d, s.e, s.f, position = struct.unpack('>ddddddd', ARGV[i], position)
    place = place + 1
    read(s)
    parts[p] = s
  end
  local allowed, pause, binding = apply(parts, verb, cost, x, y, waits)
  local least, longest, tightest = summary(parts, binding, allowed)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] = allowed, pause, least, longest, tightest
end
answer[#answer + 1] = now
return answer
