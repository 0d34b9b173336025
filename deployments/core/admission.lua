-- Who may go ahead, who waits and who is refused: every function is one atomic step over all tenants. Loaded behind rates.lua and
-- shares.lua, as one library.

local function reply(state, wait_ms, what, left, tokens)
  return cmsgpack.pack({state, math.ceil(wait_ms), what, left.r or {}, left.t or {}, tokens})
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
  local limit = pool('limit', bounds.low == bounds.high and bounds.high or FIRST_LIMIT)
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

local function settled(id) return redis.call('GET', 'hr:adm:settled:' .. id) end

local function note_settled(id, how) redis.call('SET', 'hr:adm:settled:' .. id, how, 'PX', SETTLED_MS) end

-- Ends a lease with what it really was, and learns from it.
local function conclude(id, lease, prompt, served, well, now)
  if well then learn_length(lease.tenant, served) end
  if lease.state == 'run' and served > 0 then
    local hold = pool('hold', now - lease.started)
    redis.call('HSET', POOL, 'hold', string.format('%.1f', hold + 0.1 * (now - lease.started - hold)))
  end
  finish(id, lease, prompt, served, now)
end

-- How many start before a lease; 0 where it does not wait.
local function place_of(id, lease)
  if lease.state ~= 'wait' then return 0 end
  local own = redis.call('LPOS', 'hr:adm:line:' .. lease.class .. ':' .. lease.tenant, id)
  return ahead(lease.tenant, lease.class, own or 0)
end

-- admit(ask): {'run' or 'wait' or 'free' or why not, ms to wait, what, requests left, tokens left, tokens charged}; left is
-- {limit, left, ms until all of it is}. 'left' is one whose caller had left before it came: it is not let in.
local function admit(keys, args)
  local ask, now = cmsgpack.unpack(args[1]), now_ms()
  reap(now)
  tune(ask)
  local known = load(ask.id)
  if known then return reply(known.state, 0, tostring(place_of(ask.id, known)), {}, known.charged) end
  if not ask.again and settled(ask.id) then return reply('left', 0, '', {}, 0) end
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
        if ttft >= 0 then learn_latency(ttft, lease.started, now) end
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
      answers[place] = {state, lease.charged, place_of(id, lease)}
    end
  end
  dispatch(now)
  return cmsgpack.pack(answers)
end

-- settle([[id, prompt tokens, tokens served, whether it ended well], …]): for each true, or false where the lease is not known. The
-- same again gets the same answer and changes nothing, as the reply to the first may have been lost.
local function settle(keys, args)
  local now, answers = now_ms(), {}
  for place, ended in ipairs(cmsgpack.unpack(args[1])) do
    local id, lease, before = ended[1], load(ended[1]), settled(ended[1])
    if before then
      answers[place] = before == 'known'
    else
      answers[place] = lease and true or false
      if lease then
        conclude(id, lease, ended[2], ended[3], ended[4], now)
        note_settled(id, 'known')
      elseif ended[3] == 0 then
        note_settled(id, 'unknown')
      end
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
