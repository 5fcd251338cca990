// Go's net/http: main [-honour] [-silent] [-tls VERSION -certificate FILE] ADDRESS:PORT
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

type application struct {
	honours bool // whether it gives up once its context is done
	silent  bool // whether it then writes nothing, which net/http makes a 200
	late    time.Duration
	handled *os.File
}

func (a application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = a.work(r.Context(), numberOf(body))
	}
	if err != nil {
		log.Printf("%s %s: %v", r.Method, r.URL.Path, err)
		if !a.silent {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	fmt.Fprintf(a.handled, "%d %d %x\n", numberOf(body), len(body), sha256.Sum256(body))
	io.WriteString(w, "ok")
}

// work does what database/sql does with the context it is given: looks at it before it begins, and while it waits.
func (a application) work(ctx context.Context, number int) error {
	if !a.honours {
		ctx = context.Background()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if number <= 0 || number%2 == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.late):
		return nil
	}
}

func numberOf(body []byte) int {
	if len(body) < 10 {
		return -1
	}
	number, err := strconv.Atoi(string(body[:10]))
	if err != nil {
		return -1
	}
	return number
}

func main() {
	honours := flag.Bool("honour", false, "give up once the request's context is done")
	silent := flag.Bool("silent", false, "answer 200 when it gives up, as a handler does that just returns")
	version := flag.String("tls", "", "the only version of TLS; empty: plain TCP")
	certificate := flag.String("certificate", "", "key and chain, in PEM format")
	flag.Parse()

	late, err := time.ParseDuration(os.Getenv("LATE") + "s")
	if err != nil {
		log.Fatal(err)
	}
	handled, err := os.OpenFile(os.Getenv("HANDLED"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{Addr: flag.Arg(0), Handler: application{*honours, *silent, late, handled}}
	if *version == "" {
		log.Fatal(server.ListenAndServe())
	}
	server.TLSConfig = &tls.Config{MinVersion: versions[*version], MaxVersion: versions[*version]}
	log.Fatal(server.ListenAndServeTLS(*certificate, *certificate))
}
