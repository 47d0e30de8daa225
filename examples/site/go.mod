module example.com/site

go 1.26

require github.com/perigee-edge/perigee/guest v0.0.0

replace github.com/perigee-edge/perigee/guest => ../../guest
