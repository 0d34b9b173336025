#!lua name=headrace
-- Who may go ahead, who waits and who is refused: every function is one atomic step over all tenants.
--
-- hr:adm:leases   hash   lease id -> record        hr:adm:due      zset  lease id -> when it is dead, if it gives no sign of life
-- hr:adm:pool     hash   counts, limit, estimates  hr:adm:active   zset  tenant -> virtual time, of those that run or wait
-- hr:adm:vt       hash   tenant -> virtual time    hr:adm:turn:C   zset  tenant -> virtual time, of those that wait in class C
-- hr:adm:age:C    zset   lease id -> arrival       hr:adm:line:C:T list  lease ids of tenant T that wait in class C, oldest first
-- hr:adm:recent   zset  tenant -> when its last lease ended, of those that have none
-- hr:adm:lost     list  what the leases of dead processes had used, for the books
-- hr:adm:served:B hash   tenant -> weighted tokens within 10 s     hr:{T}:rate  hash  arrival times, quotas, typical length
--
-- Rates are GCRA: a field holds the theoretical arrival time in ms. Fair shares are virtual token counters (arXiv 2401.00588).
-- All times are this server's, so that no client's clock matters; where it jumps, nobody waits longer than one period.

local LEASES, DUE, POOL, ACTIVE, VT = 'hr:adm:leases', 'hr:adm:due', 'hr:adm:pool', 'hr:adm:active', 'hr:adm:vt'
local LOST, RECENT = 'hr:adm:lost', 'hr:adm:recent'
local RECENT_MS = 10000
local CLASSES = {'0', '1', '2'}
local DAY_MS = 86400000
local LOST_CLOCK_MS = 60000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

local function number(text, default) return tonumber(text or nil) or default end

local function rate_key(tenant) return 'hr:{' .. tenant .. '}:rate' end

-- Days since 1970 to the number of the month (https://howardhinnant.github.io/date_algorithms.html).
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end

-- A rate is {field, limit, period in ms, 'r' or 't'}: requests or tokens. Its stored time, with what a clock that went back left of it.
local function stored_tat(key, rate, now)
  local tat = number(redis.call('HGET', key, rate[1]), 0)
  if tat > now + rate[3] + LOST_CLOCK_MS then
    tat = now + rate[3]
    redis.call('HSET', key, rate[1], string.format('%.3f', tat))
  end
  return tat
end

-- `since` is when the lease began: what is given back of another day's or month's tokens does not count for today.
local function charge(tenant, rates, requests, tokens, now, since)
  if requests == 0 and tokens == 0 then return end
  local key = rate_key(tenant)
  for _, rate in ipairs(rates) do
    local cost = (rate[4] == 'r' and requests or tokens) * rate[3] / rate[2]
    if cost ~= 0 then
      local tat = stored_tat(key, rate, now)
      if cost > 0 then tat = math.max(tat, now) end
      redis.call('HSET', key, rate[1], string.format('%.3f', tat + cost))
    end
  end
  if redis.call('HEXISTS', key, 'day') == 1 then
    local began, today = math.floor(since / DAY_MS), math.floor(now / DAY_MS)
    if tokens > 0 or tokens < 0 and began == today then redis.call('HINCRBY', key, 'day_tokens', tokens) end
    if tokens > 0 or tokens < 0 and month_of(began) == month_of(today) then redis.call('HINCRBY', key, 'month_tokens', tokens) end
    if requests ~= 0 then redis.call('HINCRBY', key, 'day_requests', requests) end
  end
  redis.call('PEXPIRE', key, 40 * DAY_MS)
end

-- The counters of the day and the month begun anew where these are over; false where they are not known.
local function calendar(tenant, now)
  local key, day = rate_key(tenant), math.floor(now / DAY_MS)
  local known = redis.call('HMGET', key, 'day', 'month')
  if not known[1] then return false end
  if tonumber(known[1]) ~= day then redis.call('HSET', key, 'day', day, 'day_tokens', 0, 'day_requests', 0) end
  local month = month_of(day)
  if tonumber(known[2]) ~= month then redis.call('HSET', key, 'month', month, 'month_tokens', 0) end
  return true
end

local function count(field, by)
  if redis.call('HINCRBY', POOL, field, by) <= 0 and by < 0 then redis.call('HDEL', POOL, field) end
end

local function counts(lease, by)
  count('of:' .. lease.tenant, by)
  if lease.session ~= '' then count('in:' .. lease.tenant .. '/' .. lease.session, by) end
end

local function pool(field, default) return number(redis.call('HGET', POOL, field), default) end

-- Adds served work to a tenant's virtual time; `work` is in weighted tokens.
local function spend(lease, work, now)
  if work == 0 then return end
  local vt = redis.call('HINCRBYFLOAT', VT, lease.tenant, string.format('%.6f', work / lease.weight))
  redis.call('ZADD', ACTIVE, 'XX', vt, lease.tenant)
  for _, class in ipairs(CLASSES) do redis.call('ZADD', 'hr:adm:turn:' .. class, 'XX', vt, lease.tenant) end
  local bucket = 'hr:adm:served:' .. math.floor(now / 10000)
  redis.call('HINCRBYFLOAT', bucket, lease.tenant, string.format('%.6f', work / lease.weight))
  redis.call('EXPIRE', bucket, 120)
end

-- A tenant that comes back gets no credit for the time it was away.
local function lift(tenant)
  if redis.call('ZSCORE', ACTIVE, tenant) then return end
  local least = redis.call('ZRANGE', ACTIVE, 0, 0, 'WITHSCORES')[2]
  least = number(least, pool('last_vt', 0))
  local vt = math.max(number(redis.call('HGET', VT, tenant), 0), least)
  redis.call('HSET', VT, tenant, string.format('%.6f', vt))
  redis.call('ZADD', ACTIVE, vt, tenant)
  redis.call('ZREM', RECENT, tenant)
end

local function rest(tenant, now)
  if redis.call('HEXISTS', POOL, 'of:' .. tenant) == 1 then return end
  redis.call('HSET', POOL, 'last_vt', redis.call('HGET', VT, tenant) or 0)
  redis.call('ZREM', ACTIVE, tenant)
  redis.call('ZADD', RECENT, now, tenant)
  redis.call('ZREMRANGEBYSCORE', RECENT, '-inf', '(' .. now - RECENT_MS)
  redis.call('PEXPIRE', RECENT, RECENT_MS)
  if redis.call('ZCARD', ACTIVE) == 0 then
    redis.call('DEL', VT)
    redis.call('HDEL', POOL, 'last_vt')
  end
end

local function save(id, lease) redis.call('HSET', LEASES, id, cmsgpack.pack(lease)) end

local function load(id)
  local packed = redis.call('HGET', LEASES, id)
  return packed and cmsgpack.unpack(packed)
end

local function work_of(lease) return lease.prompt * lease.w_in + lease.served * lease.w_out end

local function start(id, lease, now)
  lease.state, lease.started = 'run', now
  count('run', 1)
  count('at:' .. lease.tenant, 1)
  local work = work_of(lease)
  spend(lease, work - lease.worked, now)
  lease.worked = work
  save(id, lease)
end

local function unqueue(id, lease)
  local line = 'hr:adm:line:' .. lease.class .. ':' .. lease.tenant
  redis.call('LREM', line, 1, id)
  redis.call('ZREM', 'hr:adm:age:' .. lease.class, id)
  if redis.call('EXISTS', line) == 0 then redis.call('ZREM', 'hr:adm:turn:' .. lease.class, lease.tenant) end
  count('wait', -1)
end

-- Whether a tenant may have another slot. One is left free for each tenant that was here a moment ago, half of all at most: who asks
-- now and then finds it, however many long answers another has begun at once.
local function room(tenant, now, running, limit)
  if running >= limit then return false end
  if pool('at:' .. tenant, 0) == 0 then return true end
  local held = redis.call('ZCOUNT', RECENT, now - RECENT_MS, '+inf')
  return running < limit - math.min(held, math.floor(limit / 2))
end

-- The lease whose turn it is: of the tenant with the least virtual time in the highest class that waits, but the oldest of a lower
-- class first when it has waited too long.
local function next_lease(now, running, limit)
  local chosen
  for _, class in ipairs(CLASSES) do
    local oldest = redis.call('ZRANGE', 'hr:adm:age:' .. class, 0, 0, 'WITHSCORES')
    if oldest[1] then
      if not chosen then chosen = class
      elseif now - oldest[2] > pool('ageing', 20000) and room(load(oldest[1]).tenant, now, running, limit) then return oldest[1] end
    end
  end
  if not chosen then return end
  for _, tenant in ipairs(redis.call('ZRANGE', 'hr:adm:turn:' .. chosen, 0, 255)) do
    if room(tenant, now, running, limit) then return redis.call('LINDEX', 'hr:adm:line:' .. chosen .. ':' .. tenant, 0) end
  end
end

-- Starts those who wait, for as long as there is room.
local function dispatch(now)
  local waiting, running = pool('wait', 0), pool('run', 0)
  if waiting == 0 then return end
  local limit = math.floor(pool('limit', 1))
  while waiting > 0 and running < limit do
    local id = next_lease(now, running, limit)
    if not id then return end
    local lease = load(id)
    unqueue(id, lease)
    start(id, lease, now)
    redis.call('PUBLISH', lease.channel, id)
    waiting, running = waiting - 1, running + 1
  end
end

-- Ends a lease: what was charged beyond `prompt` and `served` is given back, what is missing is charged.
local function finish(id, lease, prompt, served, now)
  charge(lease.tenant, lease.rates, 0, prompt + served - lease.charged, now, lease.arrived)
  lease.prompt, lease.served = prompt, served
  if lease.state == 'run' then
    spend(lease, work_of(lease) - lease.worked, now)
    count('run', -1)
    count('at:' .. lease.tenant, -1)
  elseif lease.state == 'wait' then
    unqueue(id, lease)
  end
  redis.call('HDEL', LEASES, id)
  redis.call('ZREM', DUE, id)
  counts(lease, -1)
  rest(lease.tenant, now)
end

-- Ends the leases of processes that gave no sign of life, with what they had served by their last one.
local function reap(now)
  local lease_ms = pool('lease', 10000)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, now + 2 * lease_ms, '+inf', 'LIMIT', 0, 16)) do
    redis.call('ZADD', DUE, now + lease_ms, id)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 16)) do
    local lease = load(id)
    if lease then
      local prompt = lease.seen and lease.prompt or 0
      finish(id, lease, prompt, lease.served, now)
      redis.call('RPUSH', LOST, cmsgpack.pack({lease.tenant, lease.key, lease.model, prompt, lease.served}))
      redis.call('LTRIM', LOST, -10000, -1)
      redis.call('PEXPIRE', LOST, DAY_MS)
    else
      redis.call('ZREM', DUE, id)
    end
  end
end

-- Every length raises or lowers the estimate so that 95 of 100 stay under it.
local function learn_length(tenant, served)
  local key = rate_key(tenant)
  local typical = number(redis.call('HGET', key, 'p95'), served)
  local step = math.max(4, typical * 0.05)
  typical = math.max(1, typical + (served > typical and 0.95 or -0.05) * step)
  redis.call('HSET', key, 'p95', string.format('%.1f', typical))
end

-- Concurrency that follows the time to the first token: shorter than usual lets it grow, longer lets it shrink (Netflix's Gradient2).
local function learn_latency(ttft, hold_lo, hold_hi)
  local long, short = pool('long', ttft), pool('short', ttft)
  short = short + (ttft - short) * 0.2
  long = long + (ttft - long) * 0.02
  if long > 2 * short then long = long * 0.95 end
  local limit, running = pool('limit', hold_hi), pool('run', 0)
  local gradient = math.max(0.5, math.min(1, 1.5 * long / short))
  if gradient < 1 or running * 2 > limit then
    local aim = limit * gradient + math.max(1, math.sqrt(limit) / 2)
    limit = math.max(hold_lo, math.min(hold_hi, limit + 0.2 * (aim - limit)))
  end
  redis.call('HSET', POOL, 'long', string.format('%.3f', long), 'short', string.format('%.3f', short), 'limit', string.format('%.4f', limit))
end

-- How many start before a lease that has so many of its own tenant's before it: these, and of each other tenant one more at most.
local function ahead(tenant, class, own)
  local before = 0
  for _, other in ipairs(CLASSES) do
    if other <= class then
      for _, name in ipairs(redis.call('ZRANGE', 'hr:adm:turn:' .. other, 0, 255)) do
        local line = redis.call('LLEN', 'hr:adm:line:' .. other .. ':' .. name)
        if other < class then before = before + line
        elseif name == tenant then before = before + own
        else before = before + math.min(line, own + 1) end
      end
    end
  end
  return before
end

-- Milliseconds until so many who wait have started.
local function wait_of(place)
  return place * pool('hold', 1000) / math.max(1, pool('limit', 1))
end

local function reply(state, wait_ms, what, left, tokens)
  return cmsgpack.pack({state, math.ceil(wait_ms), what, left.r or {}, left.t or {}, tokens})
end

-- Checks every rate; the one that needs longest is what is told. Returns as well what is left of requests and tokens.
local function check(ask, tokens, now)
  local key, longest, what, left = rate_key(ask.tenant), 0, '', {}
  for _, rate in ipairs(ask.rates) do
    local cost = rate[4] == 'r' and ask.requests or tokens
    if cost > rate[2] then return 'never', 0, rate[1], left end
    local unit = rate[3] / rate[2]
    local after = math.max(stored_tat(key, rate, now), now) + cost * unit
    local over = after - now - rate[3]
    if over > 0.001 and cost > 0 then
      if over > longest then longest, what = over, rate[1] end
      after = after - cost * unit
    end
    local free = math.max(0, math.floor((rate[3] - (after - now)) / unit + 0.000001))
    local known = left[rate[4]]
    if not known or free < known[2] then left[rate[4]] = {rate[2], free, math.ceil(after - now)} end
  end
  return longest > 0 and 'rate' or nil, math.ceil(longest), what, left
end

local function check_quotas(ask, tokens, now)
  local quota = ask.quota
  if not (quota.day_requests or quota.day_tokens or quota.month_tokens) then
    calendar(ask.tenant, now)
    return nil, 0, ''
  end
  if not calendar(ask.tenant, now) then return 'cold', 0, '' end
  local used = redis.call('HMGET', rate_key(ask.tenant), 'day_requests', 'day_tokens', 'month_tokens')
  local tomorrow = DAY_MS - now % DAY_MS
  if quota.day_requests and used[1] + ask.requests > quota.day_requests then return 'quota', tomorrow, 'day_requests' end
  if quota.day_tokens and used[2] + tokens > quota.day_tokens then return 'quota', tomorrow, 'day_tokens' end
  if quota.month_tokens and used[3] + tokens > quota.month_tokens then
    local day, days = math.floor(now / DAY_MS), 1
    while month_of(day + days) == month_of(day) do days = days + 1 end
    return 'quota', (day + days) * DAY_MS - now, 'month_tokens'
  end
  return nil, 0, ''
end

local function check_concurrency(ask)
  local per = ask.concurrent
  if per.tenant and pool('of:' .. ask.tenant, 0) >= per.tenant then return 'tenant' end
  if per.session and ask.session ~= '' and pool('in:' .. ask.tenant .. '/' .. ask.session, 0) >= per.session then return 'session' end
end

-- Room in the queue, and time enough to wait in it.
local function check_queue(ask, place)
  local estimate = wait_of(place + 1)
  if pool('wait', 0) >= ask.most_waiting then return 'full', estimate end
  if redis.call('LLEN', 'hr:adm:line:' .. ask.class .. ':' .. ask.tenant) >= ask.most_waiting_each then return 'line', estimate end
  if estimate > ask.patience then return 'late', estimate end
end

-- Nothing stays that nobody has used for a day.
local function keep(...)
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, DAY_MS) end
end

local function tune(ask)
  local bounds = ask.pool
  redis.call('HSET', POOL, 'ageing', bounds.ageing, 'lease', bounds.lease, 'low', bounds.low, 'high', bounds.high)
  local limit = pool('limit', bounds.high)
  redis.call('HSET', POOL, 'limit', string.format('%.4f', math.max(bounds.low, math.min(bounds.high, limit))))
  keep(POOL)
end

local function record(ask, tokens, now)
  return {
    tenant = ask.tenant, session = ask.session, class = ask.class, channel = ask.channel, weight = ask.weight,
    key = ask.key, model = ask.model, rates = ask.rates, w_in = ask.w_in, w_out = ask.w_out, prompt = ask.prompt, charged = tokens, served = ask.served or 0,
    worked = 0, seen = false, state = 'free', arrived = now, block = ask.block,
  }
end

-- admit(ask): {'run' or 'wait' or 'free' or why not, ms to wait, what, requests left, tokens left, tokens charged}; left is
-- {limit, left, ms until all of it is}.
local function admit(keys, args)
  local ask, now = cmsgpack.unpack(args[1]), now_ms()
  reap(now)
  tune(ask)
  local known = load(ask.id)
  if known then return reply(known.state, 0, '', {}, known.charged) end
  local typical = number(redis.call('HGET', rate_key(ask.tenant), 'p95'), ask.typical)
  local tokens = ask.prompt + math.min(ask.most_output, math.ceil(typical))
  local left = {}
  if not ask.again then
    local why, retry_ms, what = check_quotas(ask, tokens, now)
    if why then return reply(why, retry_ms, what, left, 0) end
    why, retry_ms, what, left = check(ask, tokens, now)
    if why then return reply(why, retry_ms, what, left, 0) end
    what = check_concurrency(ask)
    if what then return reply('busy', pool('hold', 1000), what, left, 0) end
  end
  local state, place = 'free', 0
  if ask.slot then
    state = 'run'
    local waits = pool('wait', 0) > 0 and pool('at:' .. ask.tenant, 0) > 0
    if not ask.running and (waits or not room(ask.tenant, now, pool('run', 0), math.floor(pool('limit', 1)))) then
      place = ahead(ask.tenant, ask.class, redis.call('LLEN', 'hr:adm:line:' .. ask.class .. ':' .. ask.tenant))
      if not ask.again then
        local why, wait_ms = check_queue(ask, place)
        if why then return reply(why, wait_ms, '', left, 0) end
      end
      state = 'wait'
    end
  end
  if ask.again then
    charge(ask.tenant, ask.rates, 0, ask.charged - ask.reported, now, now)
    tokens = ask.charged
  else
    charge(ask.tenant, ask.rates, ask.requests, tokens, now, now)
  end
  local lease = record(ask, tokens, now)
  if ask.again and ask.running then lease.worked, lease.seen = work_of(lease), true end
  redis.call('ZADD', DUE, now + ask.pool.lease, ask.id)
  lift(ask.tenant)
  counts(lease, 1)
  if state == 'run' then
    start(ask.id, lease, now)
  elseif state == 'wait' then
    lease.state = 'wait'
    save(ask.id, lease)
    redis.call('RPUSH', 'hr:adm:line:' .. ask.class .. ':' .. ask.tenant, ask.id)
    redis.call('ZADD', 'hr:adm:turn:' .. ask.class, redis.call('HGET', VT, ask.tenant), ask.tenant)
    redis.call('ZADD', 'hr:adm:age:' .. ask.class, now, ask.id)
    count('wait', 1)
    keep('hr:adm:line:' .. ask.class .. ':' .. ask.tenant, 'hr:adm:turn:' .. ask.class, 'hr:adm:age:' .. ask.class)
    dispatch(now)
    state = load(ask.id).state
  else
    save(ask.id, lease)
  end
  keep(LEASES, DUE, ACTIVE, VT)
  return reply(state, state == 'wait' and wait_of(place + 1) or 0, tostring(place), left, tokens)
end

-- meter([[id, tokens served, ms to the first of them or -1], …]): signs of life. For each {state, tokens charged, place}:
-- 'over' is a lease whose next block of tokens the limits have no room for, 'gone' one that is not known.
local function meter(keys, args)
  local now, answers = now_ms(), {}
  reap(now)
  for place, sign in ipairs(cmsgpack.unpack(args[1])) do
    local id, served, ttft = sign[1], sign[2], sign[3]
    local lease = load(id)
    if not lease then
      answers[place] = {'gone', 0, 0}
    else
      redis.call('ZADD', DUE, now + pool('lease', 10000), id)
      local state = lease.state
      lease.served = math.max(lease.served, served)
      if state == 'run' then
        if served > 0 then lease.seen = true end
        if ttft >= 0 then learn_latency(ttft, pool('low', 1), pool('high', 1)) end
        local work = work_of(lease)
        spend(lease, work - lease.worked, now)
        lease.worked = work
        local need = lease.prompt + lease.served - lease.charged
        if need >= 0 then
          local block = lease.block * math.ceil((need + 1) / lease.block)
          local why = check({tenant = lease.tenant, rates = lease.rates, requests = 0}, block, now)
          if why then
            state = 'over'
          else
            charge(lease.tenant, lease.rates, 0, block, now, now)
            lease.charged = lease.charged + block
          end
        end
      end
      save(id, lease)
      local before = 0
      if state == 'wait' then
        local own = redis.call('LPOS', 'hr:adm:line:' .. lease.class .. ':' .. lease.tenant, id)
        before = ahead(lease.tenant, lease.class, own or 0)
      end
      answers[place] = {state, lease.charged, before}
    end
  end
  dispatch(now)
  return cmsgpack.pack(answers)
end

-- settle([[id, prompt tokens, tokens served, whether it ended well], …]): for each true, or false where the lease is not known.
local function settle(keys, args)
  local now, answers = now_ms(), {}
  for place, ended in ipairs(cmsgpack.unpack(args[1])) do
    local id, lease = ended[1], load(ended[1])
    answers[place] = lease and true or false
    if lease then
      if ended[4] then learn_length(lease.tenant, ended[3]) end
      if lease.state == 'run' and ended[3] > 0 then
        local hold = pool('hold', now - lease.started)
        redis.call('HSET', POOL, 'hold', string.format('%.1f', hold + 0.1 * (now - lease.started - hold)))
      end
      finish(id, lease, ended[2], ended[3], now)
    end
  end
  reap(now)
  dispatch(now)
  return cmsgpack.pack(answers)
end

-- warm(tenant, day's requests, day's tokens, month's tokens): what the books say, where the counters are not known.
local function warm(keys, args)
  local key, day = rate_key(args[1]), math.floor(now_ms() / DAY_MS)
  if redis.call('HEXISTS', key, 'day') == 1 then return end
  redis.call('HSET', key, 'day', day, 'month', month_of(day), 'day_requests', args[2], 'day_tokens', args[3], 'month_tokens', args[4])
  redis.call('PEXPIRE', key, 40 * DAY_MS)
end

-- look(): running, waiting, limit, and {tenant, weighted tokens of the last minute} of those that are active.
local function look(keys, args)
  local now, shares = now_ms(), {}
  for back = 0, 5 do
    local served = redis.call('HGETALL', 'hr:adm:served:' .. (math.floor(now / 10000) - back))
    for at = 1, #served, 2 do shares[served[at]] = (shares[served[at]] or 0) + served[at + 1] end
  end
  local list = {}
  for tenant, work in pairs(shares) do list[#list + 1] = {tenant, work, pool('of:' .. tenant, 0)} end
  return cmsgpack.pack({pool('run', 0), pool('wait', 0), pool('limit', 0), pool('hold', 0), list})
end

redis.register_function('hr_admit', admit)
redis.register_function('hr_meter', meter)
redis.register_function('hr_settle', settle)
redis.register_function('hr_warm', warm)
redis.register_function{function_name = 'hr_look', callback = look, flags = {'no-writes'}}
