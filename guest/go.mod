module github.com/perigee-edge/perigee/guest

go 1.26
