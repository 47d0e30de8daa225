module example.com/cgiguest

go 1.26
