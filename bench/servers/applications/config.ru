# Rack, for Puma.
require "digest"

LATE = Float(ENV.fetch("LATE"))
# sync: each write is one write().
HANDLED = File.open(ENV.fetch("HANDLED"), "ab").tap { |file| file.sync = true }

run lambda { |env|
  body = env["rack.input"].read
  number = body.match?(/\A\d{10}/) ? body[0, 10].to_i : -1
  sleep LATE if number.positive? && number.odd?
  HANDLED.write("#{number} #{body.bytesize} #{Digest::SHA256.hexdigest(body)}\n")
  [200, {"Content-Length" => "2"}, ["ok"]]
}
