-- Drives one case of `cargo xtask bench`: sends the prepared requests in turn
-- and says, as one line of JSON, what came of it, the whole histogram included,
-- so that slices can be merged. The requests are in the Lua file that
-- WRK_REQUESTS names: {method, headers, body, paths}.

local requests, count, at = {}, 0, 0

function init()
  local given = dofile(os.getenv("WRK_REQUESTS"))
  for i, path in ipairs(given.paths) do
    requests[i] = wrk.format(given.method, path, given.headers, given.body)
    count = i
  end
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"micros":%d,"bytes":%d,"failed":%d,"latencies":[',
    summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
  for i = 1, #latency do
    local micros, times = latency(i)
    io.write(string.format('%s[%d,%d]', i > 1 and "," or "", micros, times))
  end
  io.write("]}\n")
end
