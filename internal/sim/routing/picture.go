package routing

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// Scene is a situation with what each policy made of it.
type Scene struct {
	Name    string // of the file
	Title   string
	Config  Config // without the policy
	Results map[Policy]Result
}

// Scenes runs all policies in a few situations.
func Scenes(seed uint64) []Scene {
	base := Config{Seed: seed, Kind: Exponential, Load: 0.5, Length: 60 * time.Second}
	burst, loss := base, base
	burst.Load, burst.BurstAt, burst.BurstFor = 0.4, 20*time.Second, 15*time.Second
	loss.Load, loss.LossAt, loss.LossFor = 0.4, 20*time.Second, 15*time.Second
	scenes := []Scene{
		{Name: "burst", Title: "twice as many requests enter in fra from 20 s to 35 s", Config: burst},
		{Name: "loss", Title: "all nodes of fra are gone from 20 s to 35 s", Config: loss},
	}
	for _, k := range Kinds() {
		c := base
		c.Kind = k
		scenes = append(scenes, Scene{Name: string(k), Title: "service times: " + string(k) + ", load 0.5, each node slow for a fifth of the time", Config: c})
	}
	for i := range scenes {
		scenes[i].Results = map[Policy]Result{}
		for _, p := range Policies() {
			c := scenes[i].Config
			c.Policy = p
			scenes[i].Results[p] = Run(c)
		}
	}
	return scenes
}

const (
	pictureWide, pictureHigh = 960, 620
	plotLeft, plotWide       = 60, 730
	legendLeft               = plotLeft + plotWide + 20
)

// The colours of the policies and regions: Okabe and Ito's, which the colour-blind tell apart.
var palette = []string{"#0072b2", "#000000", "#009e73", "#e69f00", "#d55e00", "#cc79a7"}

// Draw returns an SVG: above, how long the slowest hundredth of the requests of each second took, by policy;
// below, how many requests ran in each region with the production policy.
func Draw(s Scene) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", pictureWide, pictureHigh)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", pictureWide, pictureHigh)
	text(&b, plotLeft, 24, 16, s.Title)
	s.drawLatency(&b, plot{top: 60, high: 270, seconds: s.Config.Length.Seconds()})
	s.drawRegions(&b, plot{top: 390, high: 180, seconds: s.Config.Length.Seconds()})
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func text(b *bytes.Buffer, x, y, size float64, s string) {
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" font-size="%.0f">%s</text>`+"\n", x, y, size, s)
}

// plot is where one of the two is drawn.
type plot struct{ top, high, seconds float64 }

func (p plot) x(second int) float64 { return plotLeft + plotWide*float64(second)/p.seconds }

// y returns the place of a share of the height.
func (p plot) y(share float64) float64 { return p.top + p.high*(1-min(1, max(0, share))) }

func (p plot) grid(b *bytes.Buffer, share float64, label string) {
	fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", plotLeft, plotLeft+plotWide, p.y(share), p.y(share))
	fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft-6, p.y(share)+4, label)
}

func (p plot) axis(b *bytes.Buffer) {
	for s := 0; s <= int(p.seconds); s += 10 {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%d s</text>`+"\n", p.x(s), p.top+p.high+18, s)
	}
}

func (p plot) line(b *bytes.Buffer, colour string, width float64, shares []float64) {
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="%.1f" points="`, colour, width)
	for i, s := range shares {
		fmt.Fprintf(b, "%.1f,%.1f ", p.x(i), p.y(s))
	}
	b.WriteString("\"/>\n")
}

func (s Scene) drawLatency(b *bytes.Buffer, p plot) {
	text(b, plotLeft, p.top-12, 13, "p99 of the requests that began in each second, by policy (logarithmic)")
	const least, decades = 0.05, 3.0 // from 50 ms to 50 s
	share := func(seconds float64) float64 { return math.Log10(seconds/least) / decades }
	for _, g := range []struct {
		at    float64
		label string
	}{{0.05, "50 ms"}, {0.1, "100 ms"}, {0.2, "200 ms"}, {0.5, "500 ms"}, {1, "1 s"}, {2, "2 s"}, {5, "5 s"}, {10, "10 s"}, {50, "50 s"}} {
		p.grid(b, share(g.at), g.label)
	}
	p.axis(b)
	for i, policy := range Policies() {
		r := s.Results[policy]
		var line []float64
		for _, slice := range r.Slices {
			if len(slice) > 0 {
				line = append(line, share(Quantile(slice, 0.99).Seconds()))
			}
		}
		width := 1.2
		if policy == Production {
			width = 2.8
		}
		p.line(b, palette[i], width, line)
		y := p.top + 10 + 38*float64(i)
		fmt.Fprintf(b, `<rect x="%d" y="%.0f" width="12" height="12" fill="%s"/>`+"\n", legendLeft, y, palette[i])
		text(b, legendLeft+18, y+11, 13, string(policy))
		text(b, legendLeft+18, y+26, 11, fmt.Sprintf("p99 in all %.0f ms", Quantile(r.Took, 0.99).Seconds()*1000))
	}
}

func (s Scene) drawRegions(b *bytes.Buffer, p plot) {
	text(b, plotLeft, p.top-12, 13, "requests a second that ran in each region, as Perigee chooses")
	served := s.Results[Production].Served
	served = served[:len(served)-1] // the last second is not whole
	most := 1
	for _, second := range served {
		for _, n := range second {
			most = max(most, n)
		}
	}
	scale := float64((most/100 + 1) * 100)
	for i := range 5 {
		p.grid(b, float64(i)/4, fmt.Sprintf("%.0f", scale*float64(i)/4))
	}
	p.axis(b)
	for i, region := range Regions() {
		var line []float64
		for _, second := range served {
			line = append(line, float64(second[i])/scale)
		}
		p.line(b, palette[i], 1.8, line)
		y := p.top + 10 + 26*float64(i)
		fmt.Fprintf(b, `<rect x="%d" y="%.0f" width="12" height="12" fill="%s"/>`+"\n", legendLeft, y, palette[i])
		text(b, legendLeft+18, y+11, 13, string(region))
	}
}
