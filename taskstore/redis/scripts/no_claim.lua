-- In place of claim_arguments.lua, choose.lua and lease.lua, where a submission serves no claim.
local function serve() end
local function leased_before() end
