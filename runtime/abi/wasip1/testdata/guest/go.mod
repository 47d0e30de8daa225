module example.com/wasiguest

go 1.26
