-- What all scripts share: arguments, keys and small functions. The loader puts this file before
-- each script, and before this file the constants that load_scripts is called with.
--
-- A script is one atomic step. It keeps indexes and counts up to date, but does not know how a
-- task may move: Python decides that (taskstore/tasks.py) and commit.lua stores the outcome.
-- Each script returns a list that begins with a word: 'ok', or what kept it from doing its work.
-- 'due' means that other work has to come first: call take_due, then this script again.
-- Numbers that may have a fraction are passed as text, because Redis cuts off fractions.
--
-- KEYS[1]  The prefix of all keys, such as '{llm}:'. Its hash tag keeps them on one cluster node.
--
-- ARGV[1]  '1' when this is the second run, because the connection broke during the first.
-- ARGV[2]  The channel for notifications.
-- ARGV[3]  Empty; or '=' and the time in seconds; or, for tests, '~' and what the clock of Redis
--          shows.
-- ARGV[4]  How many seconds a finished task is kept.
-- ARGV[5]  How many bytes all tasks together may take.
-- From ARGV[6] on: the arguments of the script itself.
--
-- All keys, with their types and contents, are in ../keys.md.
local prefix = KEYS[1]
local again, channel = ARGV[1] == '1', ARGV[2]
local result_ttl_seconds, max_store_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local call = redis.call
local FINAL = {completed = true, failed = true, cancelled = true}

local function as_text(number) return string.format('%.17g', number) end

local function arguments_from(first)
  local arguments = {}
  for n = first, #ARGV do arguments[#arguments + 1] = ARGV[n] end
  return arguments
end

local function task_key(id) return prefix .. 'task:' .. id end
local function next_turn() return call('INCR', prefix .. 'turn') end
local function publish(message) call('PUBLISH', channel, message) end

-- The first member of a sorted set and its score; nil if it is empty.
local function first_of(key)
  local first = call('ZRANGE', prefix .. key, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- The last member of a sorted set and its score; nil if it is empty.
local function last_of(key)
  local last = call('ZREVRANGE', prefix .. key, 0, 0, 'WITHSCORES')
  return last[1], tonumber(last[2])
end
