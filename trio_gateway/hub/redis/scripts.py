"""The Lua scripts that a Redis server runs for us, each in one atomic step.

In: keys of one topic, which share a hash tag, and arguments as text. Out: replies as lists. The
rules: whatever belongs together happens in one script; a script's writes begin only when nothing
can refuse it any more; and an epoch's name is never used for a second history.

Of one topic there are, all with the tag of its partition:

=========  =======================================================================================
``era``    names the history of the whole partition, made when it is first needed: a server that was
           emptied has another
``meta``   hash: ``e`` epoch, ``n`` latest offset, ``c`` bytes of all payloads so far, ``t`` the
           time of the latest, in microseconds
``log``    stream: the entry ``OFFSET-0`` has the fields p (payload), t, c and, with a key, k
``keys``   hash: key → offset of what is in the log
``read``   hash: reader → cursor, and ``e`` the epoch they are of
``here``   hash: ``v`` the number of changes, ``NODE USER`` who is in there
=========  =======================================================================================
"""

import hashlib
from typing import Final

import attrs


@attrs.frozen
class Script:
    """A script and the name that the server knows it by.

    Attributes:
        name: for people.
        source: Lua.
        repeatable: whether running it twice makes no difference to running it once.
        sha: what ``EVALSHA`` takes.
    """

    name: str
    source: str
    repeatable: bool = True
    sha: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


# Numbers go out as text here: Lua would write large ones with an exponent.
_COMMON = """
local function text(number) return string.format('%.0f', number) end
local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
-- Who is forgotten after F has, when it comes back, another half of F in its name.
local function state(now, fresh, forget)
  local m = redis.call('HMGET', KEYS[2], 'e', 'n', 'c', 't')
  if m[1] then return m[1], tonumber(m[2]), tonumber(m[3]), tonumber(m[4]), true end
  local era = redis.call('GET', KEYS[1])
  if not era then
    era = fresh
    redis.call('SET', KEYS[1], era)
  end
  return era .. '-' .. text(math.floor(now / forget * 2)), 0, 0, 0, false
end
local function kept_from(n, horizon)
  local head = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
  if not head then return n + 1 end
  local first = offset_of(head)
  if tonumber(head[2][4]) > horizon then return first end
  local gone, kept = first, n + 1
  while kept - gone > 1 do
    local middle = math.floor((gone + kept) / 2)
    local id = text(middle) .. '-0'
    local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
    if entry and tonumber(entry[2][4]) <= horizon then gone = middle else kept = middle end
  end
  return kept
end
"""

#: KEYS era meta log keys read · ARGV channel payload key fresh count bytes age now forget inline
#: known-epoch known-offset → {epoch, offset}
PUBLISH: Final = Script(
    "publish",
    _COMMON
    + """
local channel, payload, key, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, forget = clock(ARGV[8]), tonumber(ARGV[9])
local horizon = now - tonumber(ARGV[7])
local e, n, c, t, exists = state(now, fresh, forget)
if t > now then now = t end
local lost = e == ARGV[11] and n < tonumber(ARGV[12])
if key ~= '' and exists and not lost then
  local first = redis.call('HGET', KEYS[4], key)
  if first then
    local entry = redis.call('XRANGE', KEYS[3], first .. '-0', first .. '-0')[1]
    if entry and tonumber(entry[2][4]) > horizon then return {e, tonumber(first)} end
  end
end
if not exists and redis.call('EXISTS', KEYS[3]) == 1 then
  lost = true
  redis.call('DEL', KEYS[3], KEYS[4])
end
if lost then e = fresh .. '-l' end
n = n + 1
c = c + #payload
local id = text(n) .. '-0'
if key == '' then
  redis.call('XADD', KEYS[3], id, 'p', payload, 't', text(now), 'c', text(c))
else
  redis.call('XADD', KEYS[3], id, 'p', payload, 't', text(now), 'c', text(c), 'k', key)
  redis.call('HSET', KEYS[4], key, text(n))
end
redis.call('HSET', KEYS[2], 'e', e, 'n', text(n), 'c', text(c), 't', text(now))
local cut, size, gone, look = n - tonumber(ARGV[5]), tonumber(ARGV[6]), 0, 2
repeat
  local from = gone == 0 and '-' or text(gone + 1) .. '-0'
  local entries = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', look)
  local over = #entries < look
  for _, entry in ipairs(entries) do
    local o, f = offset_of(entry), entry[2]
    local held = c - tonumber(f[6]) + #f[2]
    if o == n or (o > cut and held <= size and tonumber(f[4]) > horizon) then
      over = true
      break
    end
    if f[8] and redis.call('HGET', KEYS[4], f[8]) == text(o) then
      redis.call('HDEL', KEYS[4], f[8])
    end
    gone = o
  end
  look = 64
until over
if gone > 0 then redis.call('XTRIM', KEYS[3], 'MAXLEN', text(n - gone)) end
local short = text(math.floor(tonumber(ARGV[7]) / 1000) + 60000)
local long = text(math.floor(forget / 1000))
redis.call('PEXPIRE', KEYS[3], short)
redis.call('PEXPIRE', KEYS[4], short)
redis.call('PEXPIRE', KEYS[2], long)
redis.call('PEXPIRE', KEYS[5], long)
local head = e .. ' ' .. text(n) .. ' ' .. text(now)
if #payload <= tonumber(ARGV[10]) then
  redis.call('PUBLISH', channel, 'p' .. head .. '\\n' .. payload)
else
  redis.call('PUBLISH', channel, 'n' .. head .. '\\n')
end
return {e, n}
""",
    repeatable=False,
)

#: KEYS era meta log · ARGV mode epoch offset limit fresh age now forget stamp
#: → {epoch, latest, first, start, stamp of the last, payload…}
READ: Final = Script(
    "read",
    _COMMON
    + """
local mode, at, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = clock(ARGV[7])
local e, n, c, t, exists = state(now, ARGV[5], tonumber(ARGV[8]))
local horizon = math.max(now, t) - tonumber(ARGV[6])
local first = n + 1
if exists then first = kept_from(n, horizon) end
local start, finish = math.max(first, n - limit + 1), n
local same = e == ARGV[2]
if mode == 'since' and same and at <= n and n - at <= limit and at + 1 >= first then
  start = at + 1
elseif mode == 'before' then
  finish = math.min(n, at - 1)
  start = math.max(first, finish - limit + 1)
elseif mode == 'after' then
  if same then
    local lost = at > n
    if not lost and ARGV[9] ~= '' and at > 0 then
      local entry = redis.call('XRANGE', KEYS[3], text(at) .. '-0', text(at) .. '-0')[1]
      lost = entry and entry[2][4] ~= ARGV[9]
    end
    if lost then
      e = ARGV[5] .. '-l'
      redis.call('HSET', KEYS[2], 'e', e, 'n', text(n), 'c', text(c), 't', text(t))
      same = false
    end
  end
  start = first
  if same then start = math.max(first, at + 1) end
  finish = math.min(n, start + limit - 1)
end
local reply = {e, n, first, start, text(t)}
if start <= finish then
  local from, to = text(start) .. '-0', text(finish) .. '-0'
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], from, to)) do
    reply[5] = entry[2][4]
    reply[#reply + 1] = entry[2][2]
  end
end
return reply
""",
)

#: KEYS era meta log here · ARGV fresh now forget → {epoch, latest, stamp, {field, value, …}}
LOOK: Final = Script(
    "look",
    _COMMON
    + """
local e, n, c, t = state(clock(ARGV[2]), ARGV[1], tonumber(ARGV[3]))
return {e, n, text(t), redis.call('HGETALL', KEYS[4])}
""",
)

#: KEYS era meta read · ARGV reader offset forget → cursor; an offset of 0 moves nothing
ADVANCE: Final = Script(
    "advance",
    """
local m = redis.call('HMGET', KEYS[2], 'e', 'n')
if not m[1] then return 0 end
local reader, wanted = 'r' .. ARGV[1], math.min(tonumber(ARGV[2]), tonumber(m[2]))
local r = redis.call('HMGET', KEYS[3], 'e', reader)
local cursor = r[1] == m[1] and r[2] and tonumber(r[2]) or 0
if wanted <= cursor then return cursor end
if r[1] ~= m[1] then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'e', m[1])
end
redis.call('HSET', KEYS[3], reader, string.format('%.0f', wanted))
redis.call('PEXPIRE', KEYS[3], string.format('%.0f', math.floor(tonumber(ARGV[3]) / 1000)))
return wanted
""",
)

#: KEYS here · ARGV channel node mode users-as-msgpack seconds → the number of changes so far
#: Mode ``+`` adds and takes away, ``=`` sets who is in at a node, ``x`` says that a node has ended.
PRESENT: Final = Script(
    "present",
    """
local channel, node, mode, packed = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local users = cmsgpack.unpack(packed)
local came, went = users[1], users[2]
if mode ~= '+' then
  local stays, mine, found = {}, node .. ' ', false
  for _, user in ipairs(came) do stays[mine .. user] = true end
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, #mine) == mine and not stays[field] then
      redis.call('HDEL', KEYS[1], field)
      found = true
    end
  end
  if not found and #came == 0 then return 0 end
end
local version
if redis.call('HEXISTS', KEYS[1], 'v') == 1 then
  version = redis.call('HINCRBY', KEYS[1], 'v', 1)
else
  -- Greater than any it had before it was last removed.
  local now = redis.call('TIME')
  version = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('HSET', KEYS[1], 'v', string.format('%.0f', version))
end
for _, user in ipairs(came) do redis.call('HSET', KEYS[1], node .. ' ' .. user, '1') end
for _, user in ipairs(went) do redis.call('HDEL', KEYS[1], node .. ' ' .. user) end
if redis.call('HLEN', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[1])
else
  redis.call('EXPIRE', KEYS[1], ARGV[5])
end
local head = 'm' .. string.format('%.0f', version) .. ' ' .. node .. ' ' .. mode
redis.call('PUBLISH', channel, head .. '\\n' .. packed)
return version
""",
)

#: KEYS nodes · ARGV node lease-in-ms → {whether it was alive, node…}; a lease of 0 ends it
RENEW: Final = Script(
    "renew",
    """
local now = redis.call('TIME')
local ms, lease = now[1] * 1000 + math.floor(now[2] / 1000), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', ms))
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lease == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', ms + lease), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lease * 10))
end
local reply = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(reply, 1, known and 1 or 0)
return reply
""",
)

ALL: Final = (PUBLISH, READ, LOOK, ADVANCE, PRESENT, RENEW)
