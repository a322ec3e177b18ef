"""The Lua that runs in Redis: each script is one round trip, and all of it happens or nothing.

A script's writes reach the append-only file as one unit, so a crash leaves all of a publish or none of it. Each sends and
takes records in one piece (`entries.pack`): packing and parsing them one by one costs a Python client thirty times as much.
"""

from __future__ import annotations

from ...binary_mode import STRUCTURED
from .connections import Script
from .entries import EPOCH, FOREIGN, NO_KEY

__all__ = ["APPEND", "BOUNDS", "CREATE", "FETCH", "MARK", "RETAIN"]

_ALSO_WHEN_FULL = "#!lua flags=allow-oom"
"""Without it a server that has used up its memory refuses the very marks and deletions that would make room."""

_SHARED = f"""
local function id(position) return '{EPOCH}-' .. string.format('%.0f', position) end
local function position(of) return tonumber(string.match(of, '^{EPOCH}%-(%d+)$')) end
local function about(stream)
  local info, found = redis.call('XINFO', 'STREAM', stream), {{}}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found
end
"""

APPEND = Script(f"""
-- KEYS: stream. ARGV: sizes, data. Returns 1, or 0 when there is no such stream.
local sizes, data, at = cmsgpack.unpack(ARGV[1]), ARGV[2], 1
for i = 1, #sizes, 2 do
  local k, v, added = sizes[i], sizes[i + 1], nil
  if k == {NO_KEY} then
    added = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '{EPOCH}-*', 'content-type', '{STRUCTURED}',
      'value', string.sub(data, at, at + v - 1))
    at = at + v
  else
    added = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '{EPOCH}-*', 'content-type', '{STRUCTURED}',
      'key', string.sub(data, at, at + k - 1), 'value', string.sub(data, at + k, at + k + v - 1))
    at = at + k + v
  end
  if not added then return 0 end
end
return 1
""")

FETCH = Script(f"""{_SHARED}
-- KEYS: stream. ARGV: after, limit, bytes. Returns sizes, data, and when nothing was found: the id of an entry that is not
-- the next one (or ''), the last id that the stream gave out (or '' when there is no stream).
local after, limit, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local sizes, parts, n, m, taken, size, odd = {{}}, {{}}, 0, 0, 0, 0, ''
local step = math.min(limit, 8)  -- few at first: they may be large
while true do
  local found = redis.call('XRANGE', KEYS[1], '(' .. id(after + taken), '+', 'COUNT', step)
  for i = 1, #found do
    if found[i][1] ~= id(after + taken + 1) then odd = found[i][1] break end
    local f = found[i][2]
    local own, k, v = f[1] == 'content-type' and f[2] == '{STRUCTURED}', {NO_KEY}, nil
    if own and #f == 6 and f[3] == 'key' and f[5] == 'value' then
      k, v = #f[4], f[6]
      m = m + 1
      parts[m] = f[4]
    elseif own and #f == 4 and f[3] == 'value' then
      v = f[4]
    else
      local strings = {{}}
      for j = 1, #f do strings[j] = #f[j] .. ':' .. f[j] end
      k, v = {FOREIGN}, table.concat(strings)
    end
    m = m + 1
    parts[m] = v
    sizes[n + 1], sizes[n + 2] = k, #v
    n, taken, size = n + 2, taken + 1, size + #v
    if size >= bytes then break end
  end
  if #found < step or odd ~= '' or size >= bytes or taken >= limit then break end
  step = math.min(limit - taken, 64, math.max(1, math.ceil((bytes - size) * taken / (size + 1))))
end
local last = ''
if taken == 0 and odd == '' and redis.call('EXISTS', KEYS[1]) == 1 then
  last = about(KEYS[1])['last-generated-id']
end
return {{cmsgpack.pack(sizes), table.concat(parts), odd, last}}
""")

BOUNDS = Script(f"""{_SHARED}
-- KEYS: stream. Returns the first id (or '') and the last one that the stream gave out; nothing without a stream.
if redis.call('EXISTS', KEYS[1]) == 0 then return {{}} end
local info = about(KEYS[1])
return {{info['first-entry'] and info['first-entry'][1] or '', info['last-generated-id']}}
""")

CREATE = Script(f"""{_SHARED}
-- KEYS: topics, then a stream for each partition, then its marks. ARGV: topic, partitions. Returns the number of partitions,
-- or the key that is in the way. A stream that was lost begins behind the last known mark: no position is given twice.
local partitions = tonumber(ARGV[2])
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and tonumber(known) ~= partitions then return tonumber(known) end
for i = 2, partitions + 1 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and (kind ~= 'stream' or not position(about(KEYS[i])['last-generated-id'])) then return KEYS[i] end
end
for i = 2, partitions + 1 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    local start = 0
    for _, mark in ipairs(redis.call('HVALS', KEYS[i + partitions])) do start = math.max(start, tonumber(mark)) end
    redis.call('XGROUP', 'CREATE', KEYS[i], 'millstream', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', KEYS[i], 'millstream')
    redis.call('XSETID', KEYS[i], id(start))
  end
end
redis.call('HSET', KEYS[1], ARGV[1], partitions)
return partitions
""")

MARK = Script(f"""{_ALSO_WHEN_FULL}
-- KEYS: marks, and for a first mark: subscriptions. ARGV: subscription, position, and so on.
for i = 1, #ARGV, 2 do
  if KEYS[2] then redis.call('SADD', KEYS[2], ARGV[i]) end
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
""")

RETAIN = Script(f"""{_ALSO_WHEN_FULL}
{_SHARED}
-- KEYS: stream, marks, subscriptions, times. ARGV: now, keep, spacing (milliseconds), records at most. Returns how many went.
local now, keep, spacing, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('SMEMBERS', KEYS[3])
if #known == 0 or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local info = about(KEYS[1])
local last, first = position(info['last-generated-id']), info['first-entry'] and position(info['first-entry'][1])
if not last or not first then return 0 end
local limit = last
for _, mark in ipairs(redis.call('HMGET', KEYS[2], unpack(known))) do limit = math.min(limit, tonumber(mark) or 0) end
if keep > 0 then
  -- Entries carry no time, so note now and then how far the stream has come: what is there now was written before now.
  local newest = redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES')
  if #newest == 0 or (tonumber(newest[1]) ~= last and now >= newest[2] + spacing) then
    redis.call('ZADD', KEYS[4], now, string.format('%.0f', last))
  end
  local old = redis.call('ZREVRANGEBYSCORE', KEYS[4], now - keep, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if #old == 0 then return 0 end
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. old[2])
  limit = math.min(limit, tonumber(old[1]))
end
limit = math.min(limit, first - 1 + most)
if limit < first then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', id(limit + 1))
""")
