// A CGI program in C: it answers with the request's method and path, the entries of the directory /data,
// and the body in capital letters as it comes. Built by
//
//	clang-19 --target=wasm32-wasi -Os -s -o upper.wasm upper.c
//
// with the packages clang-19, lld-19, wasi-libc and libclang-rt-19-dev-wasm32 of Debian.
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
	const char *method = getenv("REQUEST_METHOD"), *path = getenv("PATH_INFO");
	if (method == NULL || path == NULL) {
		fputs("this is a CGI program\n", stderr);
		return 1;
	}
	printf("Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n%s %s %s %d\n", method, path, argv[0], time(NULL) > 1700000000);
	DIR *d = opendir("/data");
	if (d != NULL) {
		struct dirent *e;
		while ((e = readdir(d)) != NULL) {
			char name[300];
			struct stat st;
			snprintf(name, sizeof name, "/data/%s", e->d_name);
			if (e->d_name[0] != '.' && stat(name, &st) == 0) {
				printf("%s %lld\n", e->d_name, (long long)st.st_size);
			}
		}
		closedir(d);
	}
	fflush(stdout);
	char buf[4096];
	for (ssize_t n; (n = read(0, buf, sizeof buf)) > 0;) {
		for (ssize_t i = 0; i < n; i++) {
			buf[i] = toupper((unsigned char)buf[i]);
		}
		for (ssize_t at = 0, w; at < n; at += w) {
			if ((w = write(1, buf + at, n - at)) < 0) {
				return 2;
			}
		}
	}
	FILE *f = fopen("/data/new", "w");
	if (f != NULL) {
		return 3;
	}
	perror("write a file");
	return 0;
}
