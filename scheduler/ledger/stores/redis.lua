-- One step of the ledger, whole or not at all: Redis runs nothing else meanwhile. See `redis.py`.
--
-- KEYS[1]  the store's name in braces, so that a cluster keeps all keys of the store in one slot; it is itself a
--          hash: `version` of this layout; `generation`, the ledger's own number; `clock`: the latest time seen, to
--          the second, and `boot`, `ticks`, `ahead`: who wrote the time (`ledger_time.Mark`)
-- ARGV     a step's name; what the caller knows of the time: the earliest and the latest that it can be, and boot,
--          ticks and ahead for the mark; the generation that the caller knows, and one for a new ledger; then the
--          step's arguments. '' stands for None
--
--   :accounts      set of account ids                     :account:ID    hash: ACCOUNT below
--   :closed        ids by time of closing                 :children:ID   set of account ids
--   :live          hold keys by end of lease              :holds:ID      set of the keys of its holds
--   :ended         hold keys by time of end               :hold:KEY      hash: HOLD below
--
-- Times are microseconds. Lua's numbers are doubles, exact up to 2^53, which no sum may pass. `tostring` and `..`
-- turn 10^15 into "1e+15": use `int`. A step refuses before its first write: a script that fails is not rolled back.

local VERSION = 2
local FAR = 300000000 -- `ledger_time.FAR`
local ASKED = 8 -- words before a step's arguments
local LIMIT = 2 ^ 53
local UNITS = {'tokens', 'nano'}
local ACCOUNT = {
  'parent', 'tokens', 'nano', 'seconds', 'window', 'opened', 'closed', 'started', -- started: its window's number
  'spent_tokens', 'spent_nano', 'held_tokens', 'held_nano', -- of the account and all accounts below it
  'own_tokens', 'own_nano', -- charged to its own holds, ever
  'past_tokens', 'past_nano', -- spent in the windows before
}
local HOLD = {'account', 'tokens', 'nano', 'state', 'until', 'dispatched', 'charged_tokens', 'charged_nano'}

local root = KEYS[1]
local ACCOUNTS, LIVE, ENDED, CLOSED = root .. ':accounts', root .. ':live', root .. ':ended', root .. ':closed'
local now, wrote = 0, false

local read = redis.call

local function write(...)
  wrote = true
  return redis.call(...)
end

local function key(kind, name) return root .. ':' .. kind .. ':' .. name end

local function int(number) return string.format('%.0f', number) end

-- What is refused, as redis.py reads it.
local function fail(...) error({refused = {...}}, 0) end

-- A hash as a table; false where a field is missing. nil if there is no such hash.
local function load(kind, name, fields)
  local values = read('HMGET', key(kind, name), unpack(fields))
  local found, any = {}, false
  for i, field in ipairs(fields) do
    found[field] = values[i]
    any = any or values[i]
  end
  return any and found or nil
end

-- Days or months since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
local function window_number(window)
  local day = math.floor(now / 86400000000)
  if window == 'day' then return day end
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local month = math.floor((5 * doy + 2) / 153) -- 0 is March
  return (yoe + era * 400) * 12 + month
end

-- One account as it is now: in a new window nothing is spent, though no step has written the new window yet.
local function load_account(id)
  local a = load('account', id, ACCOUNT)
  if not a then return nil end
  a.id = id
  local number = a.window and window_number(a.window)
  if number and number > tonumber(a.started) then
    a.over, a.started = {tokens = a.spent_tokens, nano = a.spent_nano}, int(number)
    a.spent_tokens, a.spent_nano = '0', '0'
  end
  return a
end

-- An account and the accounts above it, from the account up.
local function path(id)
  local levels = {}
  while id do
    local a = load_account(id)
    if not a then fail('account', id) end
    levels[#levels + 1] = a
    id = a.parent
  end
  return levels
end

-- Write to all accounts of a path: `amount` more (1) or less (-1) held, and the charge.
local function post(levels, sign, amount, charged)
  for _, a in ipairs(levels) do
    for _, unit in ipairs(UNITS) do
      local spent, held = 'spent_' .. unit, 'held_' .. unit
      a[held] = int(a[held] + sign * amount[unit])
      a[spent] = int(a[spent] + charged[unit])
      if a[spent] + a[held] >= LIMIT then
        fail('store', 'the ' .. unit .. ' of ' .. a.id .. ' would pass 2^53, the most that this store can count')
      end
    end
  end
  for _, a in ipairs(levels) do
    local account = key('account', a.id)
    write('HSET', account, 'held_tokens', a.held_tokens, 'held_nano', a.held_nano, 'spent_tokens', a.spent_tokens,
      'spent_nano', a.spent_nano)
    if a.over then
      write('HSET', account, 'started', a.started)
      for _, unit in ipairs(UNITS) do write('HINCRBY', account, 'past_' .. unit, a.over[unit]) end
    end
  end
end

local function finish(h, state, charged)
  local levels = path(h.account)
  -- First a command that Redis allows even when its memory is full: then the others are allowed, too.
  write('ZREM', LIVE, h.key)
  post(levels, -1, h, charged)
  for _, unit in ipairs(UNITS) do
    if tonumber(charged[unit]) > 0 then
      write('HINCRBY', key('account', h.account), 'own_' .. unit, charged[unit])
    end
  end
  h.state, h.charged_tokens, h.charged_nano = state, charged.tokens, charged.nano
  write('HSET', key('hold', h.key), 'state', state, 'charged_tokens', h.charged_tokens, 'charged_nano', h.charged_nano)
  write('ZADD', ENDED, int(now), h.key)
end

local NOTHING = {tokens = '0', nano = '0'}

-- End a hold whose lease has run out: charged if its call may have left.
local function lapse(h)
  if h.dispatched == '1' then finish(h, 'expired', h) else finish(h, 'refunded', NOTHING) end
end

local function lives(h) return h.state == 'live' and tonumber(h['until']) > now end

local function load_hold(name)
  local h = load('hold', name, HOLD)
  if h then h.key = name end
  return h
end

local function known_hold(name) return load_hold(name) or fail('hold', name) end

-- End a hold whose lease has run out, and return it.
local function current(h)
  if h.state == 'live' and not lives(h) then lapse(h) end
  return h
end

local function hold_reply(h)
  local left = h.state == 'live' and math.max(0, h['until'] - now) or 0
  return {h.key, h.account, h.tokens, h.nano, h.state, h.charged_tokens, h.charged_nano, h.dispatched, int(left)}
end

local function account_reply(a)
  local left = a.seconds and int(math.max(0, a.opened + a.seconds - now))
  local over = a.over or NOTHING
  return {
    a.id, a.parent, a.tokens, a.nano, a.seconds, a.window, a.closed, left, a.spent_tokens, a.spent_nano, a.held_tokens,
    a.held_nano, a.own_tokens, a.own_nano, int(a.past_tokens + over.tokens), int(a.past_nano + over.nano),
  }
end

local function holds_reply(names)
  local found = {}
  for i, name in ipairs(names) do found[i] = hold_reply(load_hold(name)) end
  return found
end

local function all_holds()
  local names = read('ZRANGE', LIVE, 0, -1)
  for _, name in ipairs(read('ZRANGE', ENDED, 0, -1)) do names[#names + 1] = name end
  return holds_reply(names)
end

-- The account's charges become own charges of its parent: the sums stay right.
local function forget_account(id)
  local parent = read('HGET', key('account', id), 'parent')
  write('ZREM', CLOSED, id)
  if parent then
    for _, unit in ipairs(UNITS) do
      for _, sum in ipairs({'spent_', 'past_'}) do
        local charged = read('HGET', key('account', id), sum .. unit)
        write('HINCRBY', key('account', parent), 'own_' .. unit, charged)
      end
    end
    write('SREM', key('children', parent), id)
  end
  write('SREM', ACCOUNTS, id)
  write('DEL', key('account', id))
end

local step = {}

function step.open(...)
  local specs, fresh, parent = {...}, {}, false
  for i = 1, #specs, 5 do
    local id, a = specs[i], load_account(specs[i])
    if a then
      if a.closed then fail('closed', id) end
      if a.parent ~= parent then fail('parent', id, a.parent, parent) end
      for at, field in ipairs({'tokens', 'nano', 'seconds', 'window'}) do
        local want = specs[i + at]
        if (a[field] or '') ~= want then
          fail('store', id .. ' is open with ' .. field .. ' ' .. (a[field] or 'None') .. ', not '
            .. (want == '' and 'None' or want) .. ': `set_caps` changes caps')
        end
      end
    else
      fresh[#fresh + 1] = {i, parent}
    end
    parent = id
  end
  for _, new in ipairs(fresh) do
    local i, above = new[1], new[2]
    local id, account = specs[i], key('account', specs[i])
    write('HSET', account, 'opened', int(now))
    for _, field in ipairs({'spent', 'held', 'own', 'past'}) do
      write('HSET', account, field .. '_tokens', '0', field .. '_nano', '0')
    end
    for at, field in ipairs({'tokens', 'nano', 'seconds', 'window'}) do
      if specs[i + at] ~= '' then write('HSET', account, field, specs[i + at]) end
    end
    if specs[i + 4] ~= '' then write('HSET', account, 'started', int(window_number(specs[i + 4]))) end
    if above then
      write('HSET', account, 'parent', above)
      write('SADD', key('children', above), id)
    end
    write('SADD', ACCOUNTS, id)
  end
  return {}
end

function step.set_caps(id, tokens, nano)
  path(id)
  for field, value in pairs({tokens = tokens, nano = nano}) do
    if value == '' then write('HDEL', key('account', id), field) else write('HSET', key('account', id), field, value) end
  end
  return {}
end

function step.hold(name, id, tokens, nano, lease, seconds, dispatched, instead_of)
  local h = load_hold(name)
  if h then
    if h.account ~= id or h.tokens ~= tokens or h.nano ~= nano then fail('key', name) end
    current(h)
    if dispatched == '1' and h.state == 'live' and h.dispatched == '0' then
      write('HSET', key('hold', name), 'dispatched', '1')
      h.dispatched = '1'
    end
    return {'hold', unpack(hold_reply(h))}
  end
  local old = instead_of ~= '' and known_hold(instead_of)
  if old and (old.account ~= id or old.dispatched == '1') then fail('old', instead_of) end
  local back = old and current(old).state == 'live' and old or NOTHING
  local levels = path(id)
  for _, a in ipairs(levels) do
    if a.closed then fail('closed', a.id) end
  end
  local want = {tokens = tokens, nano = nano}
  for _, a in ipairs(levels) do
    for _, unit in ipairs(UNITS) do
      local room = a[unit] and a[unit] - a['spent_' .. unit] - a['held_' .. unit] + back[unit]
      if room and want[unit] - back[unit] > 0 and want[unit] - room > 0 then
        return {'shortage', a.id, unit, want[unit], int(room)}
      end
    end
    local left = a.seconds and a.opened + a.seconds - now
    if left and tonumber(seconds) > left then return {'shortage', a.id, 'seconds', seconds, int(left)} end
  end
  h = {
    key = name, account = id, tokens = tokens, nano = nano, state = 'live', dispatched = dispatched,
    charged_tokens = '0', charged_nano = '0',
  }
  h['until'] = int(now + lease)
  post(levels, 1, h, NOTHING)
  write('HSET', key('hold', name), 'account', id, 'tokens', tokens, 'nano', nano, 'state', 'live', 'until', h['until'],
    'dispatched', dispatched, 'charged_tokens', '0', 'charged_nano', '0')
  write('ZADD', LIVE, h['until'], name)
  write('SADD', key('holds', id), name)
  if back ~= NOTHING then finish(old, 'refunded', NOTHING) end
  return {'hold', unpack(hold_reply(h))}
end

function step.dispatch(name)
  local h = known_hold(name)
  if not lives(h) then return 0 end
  if h.dispatched == '0' then write('HSET', key('hold', name), 'dispatched', '1') end
  return 1
end

local function finish_known(name, state, charged)
  local h = current(known_hold(name))
  if h.state == 'live' then finish(h, state, charged) end
  return hold_reply(h)
end

function step.settle(name, tokens, nano) return finish_known(name, 'settled', {tokens = tokens, nano = nano}) end

function step.refund(name) return finish_known(name, 'refunded', NOTHING) end

function step.renew(lease, ...)
  local ended = {}
  for _, name in ipairs({...}) do
    local h = load_hold(name)
    if h and lives(h) then
      local ends = int(now + lease)
      write('HSET', key('hold', name), 'until', ends)
      write('ZADD', LIVE, ends, name)
    else
      ended[#ended + 1] = name
    end
  end
  return ended
end

function step.expire(most)
  local ended = {}
  for _, name in ipairs(read('ZRANGEBYSCORE', LIVE, '-inf', int(now), 'LIMIT', 0, most)) do
    ended[#ended + 1] = hold_reply(current(load_hold(name)))
  end
  return ended
end

-- Forget old holds and accounts: a few at a time, so that no step takes long. 1: there may be more.
function step.forget(most, retention)
  local before, more = int(now - retention), 0
  local names = read('ZRANGEBYSCORE', ENDED, '-inf', before, 'LIMIT', 0, most)
  for _, name in ipairs(names) do
    write('ZREM', ENDED, name)
    write('SREM', key('holds', read('HGET', key('hold', name), 'account')), name)
    write('DEL', key('hold', name))
  end
  if #names == tonumber(most) then return 1 end
  for _, id in ipairs(read('ZRANGEBYSCORE', CLOSED, '-inf', before, 'LIMIT', 0, most)) do
    if read('EXISTS', key('holds', id), key('children', id)) == 0 then
      forget_account(id)
      more = 1
    end
  end
  return more
end

local function close(id, closed)
  local a = load_account(id)
  if a.closed then return closed end
  for _, child in ipairs(read('SMEMBERS', key('children', id))) do closed = close(child, closed) end
  for _, name in ipairs(read('SMEMBERS', key('holds', id))) do
    local h = load_hold(name)
    if h.state == 'live' then lapse(h) end
  end
  write('HSET', key('account', id), 'closed', '1')
  write('ZADD', CLOSED, int(now + closed), id) -- a parent after its children
  return closed + 1
end

function step.close(id)
  path(id)
  close(id, 0)
  return {}
end

function step.read_accounts(id)
  local found = {}
  for i, a in ipairs(path(id)) do found[i] = account_reply(a) end
  return found
end

function step.holds(id)
  if id == '' then return all_holds() end
  path(id)
  return holds_reply(read('SMEMBERS', key('holds', id)))
end

-- Looks at all live holds: there are fewer live holds than ended holds.
function step.live(id)
  path(id)
  local inside, names = {[id] = true}, {}
  local function below(name)
    if inside[name] == nil then
      local parent = read('HGET', key('account', name), 'parent')
      inside[name] = parent and parent ~= '' and below(parent) or false
    end
    return inside[name]
  end
  for _, name in ipairs(read('ZRANGEBYSCORE', LIVE, '(' .. int(now), '+inf')) do
    if below(read('HGET', key('hold', name), 'account')) then names[#names + 1] = name end
  end
  return holds_reply(names)
end

function step.check()
  local accounts = {}
  for i, id in ipairs(read('SMEMBERS', ACCOUNTS)) do accounts[i] = account_reply(load_account(id)) end
  return {accounts, all_holds()}
end

-- Follow the clock from here on: move times that lie ahead of the clock back to the clock.
function step.set_time()
  for _, id in ipairs(read('SMEMBERS', ACCOUNTS)) do
    local a = load('account', id, ACCOUNT)
    if a.window and tonumber(a.started) > window_number(a.window) then
      write('HSET', key('account', id), 'started', int(window_number(a.window)))
    end
  end
  for _, name in ipairs(read('ZRANGE', LIVE, 0, -1)) do
    write('HSET', key('hold', name), 'until', int(now))
    write('ZADD', LIVE, int(now), name)
  end
  for _, set in ipairs({ENDED, CLOSED}) do
    for _, name in ipairs(read('ZRANGEBYSCORE', set, '(' .. int(now), '+inf')) do write('ZADD', set, int(now), name) end
  end
  write('HSET', root, 'clock', int(now))
  return {}
end

local known = read('HMGET', root, 'version', 'clock', 'generation')
if known[1] and tonumber(known[1]) > VERSION then return {'version', known[1]} end
local _, earliest, latest, boot, ticks, ahead, generation, fresh = unpack(ARGV, 1, ASKED)
if generation ~= '' and generation ~= (known[3] or '') then return {'forgot'} end
local time = read('TIME')
local clock, mark = time[1] * 1000000 + time[2], tonumber(known[2] or 0)
if ARGV[1] == 'set_time' then
  now, mark = clock, math.min(mark, clock)
else
  local least = math.max(mark, tonumber(earliest))
  if least - clock > FAR then return {'clock', int(least), int(clock)} end
  now = math.max(least, latest == '' and clock or math.min(clock, tonumber(latest)))
end

local ok, result = pcall(step[ARGV[1]], unpack(ARGV, ASKED + 1))
local refused = not ok and type(result) == 'table' and result.refused
if wrote and (ok or refused) then
  if now - mark >= 1000000 then
    write('HSET', root, 'version', VERSION, 'clock', int(now), 'boot', boot, 'ticks', ticks, 'ahead', ahead)
  end
  if not known[3] then
    known[3] = fresh
    write('HSET', root, 'version', VERSION, 'generation', fresh)
  end
end
if ok then return {'ok', result, int(now), int(clock), known[3] or ''} end
if refused then return refused end
if type(result) == 'table' then return result end -- an error of Redis's own
return redis.error_reply(result)
