package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

func newRegion(t *target) *cobra.Command {
	return group("region", "The places a cluster knows", newRegionLs(t), newRegionAdd(t))
}

func newRegionLs(t *target) *cobra.Command {
	var builtin bool
	c := &cobra.Command{
		Use: "ls", Short: "List the regions and their groups", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			regions := perigee.BuiltinRegions().All()
			if !builtin {
				p, done, err := t.person(cmd.Context())
				if err != nil {
					return err
				}
				defer done()
				if regions, err = p.Regions(cmd.Context()); err != nil {
					return err
				}
			}
			out := newTable("REGION", "CITY", "COUNTRY", "LATITUDE", "LONGITUDE", "GROUPS")
			for _, r := range regions {
				out.row(string(r.Code), r.City, r.Country, fmt.Sprintf("%.2f", r.Point.Lat), fmt.Sprintf("%.2f", r.Point.Lon), strings.Join(r.Groups, " "))
			}
			return t.print(cmd, regions, out)
		},
	}
	c.Flags().BoolVar(&builtin, "builtin", false, "the regions that every cluster starts with; needs no cluster")
	return c
}

func newRegionAdd(t *target) *cobra.Command {
	var at, city, country string
	var groups []string
	c := &cobra.Command{
		Use: "add REGION --at LAT,LON", Short: "Add a region, or replace one", Args: exactly("REGION"),
		Long: "A region's coordinates are what distances are estimated from until they are measured; its groups are\n" +
			"names that manifests may use for it and others together.",
		Example: "  perigee region add hel --at 60.17,24.94 --city Helsinki --country FI --group eu,eu27",
		RunE: func(cmd *cobra.Command, args []string) error {
			info := perigee.RegionInfo{Code: perigee.Region(args[0]), City: city, Country: country, Groups: groups}
			if err := perigee.CheckLabel(args[0]); err != nil {
				return usagef("region: %w", err)
			}
			for _, g := range groups {
				if err := perigee.CheckLabel(g); err != nil {
					return usagef("--group: %w", err)
				}
			}
			var ok bool
			if info.Point, ok = parsePoint(at); !ok {
				return usagef("--at %q: want latitude and longitude in degrees, like --at 60.17,24.94", at)
			}
			p, done, err := t.signer(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			ack, err := p.AddRegion(cmd.Context(), info)
			if err != nil {
				return err
			}
			return t.say(cmd, ack, "region %s added; recorded on %s\n", info.Code, joined(ack.Stored))
		},
	}
	f := c.Flags()
	f.StringVar(&at, "at", "", "`LAT,LON` in degrees (required)")
	f.StringVar(&city, "city", "", "`NAME` of the place")
	f.StringVar(&country, "country", "", "ISO 3166-1 alpha-2 `CODE`")
	f.StringSliceVar(&groups, "group", nil, "`GROUP` it belongs to, for example eu")
	return c
}

func parsePoint(s string) (p perigee.Point, ok bool) {
	lat, lon, _ := strings.Cut(s, ",")
	var errLat, errLon error
	p.Lat, errLat = strconv.ParseFloat(strings.TrimSpace(lat), 64)
	p.Lon, errLon = strconv.ParseFloat(strings.TrimSpace(lon), 64)
	return p, errLat == nil && errLon == nil && math.Abs(p.Lat) <= 90 && math.Abs(p.Lon) <= 180
}
