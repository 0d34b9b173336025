-- Rates and quotas. A rate is GCRA: a field of hr:{TENANT}:rate holds its theoretical arrival time in ms; beside them stand the counters
-- of the day and the month (UTC) and the typical length of an answer. All times are this server's, so that no client's clock matters;
-- where it jumps, nobody waits longer than one period.

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
    local amount = rate[4] == 'r' and requests or tokens
    if amount ~= 0 and rate[2] > 0 then
      local cost = amount * rate[3] / rate[2]
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

-- Checks every rate; the one that needs longest is what is told. Returns as well what is left of requests and tokens.
local function check(ask, tokens, now)
  local key, longest, what, left = rate_key(ask.tenant), 0, '', {}
  for _, rate in ipairs(ask.rates) do
    local cost = rate[4] == 'r' and ask.requests or tokens
    if cost > rate[2] then return 'never', 0, rate[1], left end
    local unit = rate[3] / math.max(rate[2], 1)
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
