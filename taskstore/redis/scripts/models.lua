-- List the models of groups of workers.
--
-- Reads: group.
--
-- ARGV[6]  A group, and so on to the last argument.
--
-- Returns {'ok', a list of the models of each group in alphabetical order; it is empty for a group
-- that is unknown}.
local lists = {}
for _, group in ipairs(arguments_from(6)) do
  lists[#lists + 1] = call('ZRANGE', prefix .. 'group:' .. group, 0, -1)
end
return {'ok', lists}
