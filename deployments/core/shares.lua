-- Leases, the queue, and fair shares by virtual token counters (arXiv 2401.00588).
--
-- hr:adm:leases   hash   lease id -> record        hr:adm:due      zset  lease id -> when it is dead, if it gives no sign of life
-- hr:adm:pool     hash   counts, limit, estimates  hr:adm:active   zset  tenant -> virtual time, of those that run or wait
-- hr:adm:vt       hash   tenant -> virtual time    hr:adm:turn:C   zset  tenant -> virtual time, of those that wait in class C
-- hr:adm:age:C    zset   lease id -> arrival       hr:adm:line:C:T list  lease ids of tenant T that wait in class C, oldest first
-- hr:adm:recent   zset   tenant -> when its last lease ended, of those that have none
-- hr:adm:lost     list   what the leases of dead processes had used, for the books
-- hr:adm:settled:ID whether that lease was known when it was settled
-- hr:adm:served:B hash   tenant -> weighted tokens within 10 s

local LEASES, DUE, POOL, ACTIVE, VT = 'hr:adm:leases', 'hr:adm:due', 'hr:adm:pool', 'hr:adm:active', 'hr:adm:vt'
local LOST, RECENT = 'hr:adm:lost', 'hr:adm:recent'
local RECENT_MS = 10000
local OWN_MS = 250
local FIRST_LIMIT = 16
local SETTLED_MS = 60000
local CLASSES = {'0', '1', '2'}

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

-- What a lease weighs while it runs: what it has reserved counts as written, so that a tenant that is behind does not begin more than
-- it is owed before the first tokens of these answers tell. Once it has ended, what it really was.
local function work_of(lease, ended)
  local written = ended and lease.served or math.max(lease.served, lease.charged - lease.prompt)
  return lease.prompt * lease.w_in + written * lease.w_out
end

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
    spend(lease, work_of(lease, true) - lease.worked, now)
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

-- Concurrency that follows the time to the first token of leases that began under the limit in force: beyond twice the shortest, and
-- what a busy machine of ours adds, it is cut once, in proportion; else it grows. The shortest is forgotten slowly, as models and prompts
-- change (the gradient of Netflix's concurrency-limits; as in TCP one cut a round trip, and until the first cut one more for each answer
-- that began in time, so that it doubles while nobody suffers).
local function learn_latency(ttft, started, now)
  local low, high = pool('low', 1), pool('high', 1)
  local shortest, cut = pool('shortest', ttft), pool('cut', 0)
  shortest = ttft < shortest and ttft or shortest + math.min(ttft - shortest, shortest) * 0.001
  redis.call('HSET', POOL, 'shortest', string.format('%.3f', shortest))
  if started < cut or low == high then return end
  local limit, tolerated = pool('limit', low), 2 * shortest + OWN_MS
  local mean = pool('ttft', ttft)
  mean = mean + (ttft - mean) * 0.2
  if mean > tolerated then
    limit = math.max(low, limit * math.max(0.5, tolerated / mean))
    mean = tolerated
    redis.call('HSET', POOL, 'cut', now)
  elseif pool('run', 0) * 2 > limit then
    limit = math.min(high, limit + (cut == 0 and 1 or 1 / math.sqrt(limit)))
  end
  redis.call('HSET', POOL, 'ttft', string.format('%.3f', mean), 'limit', string.format('%.4f', limit))
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
