// Command gorilla tries gorilla/websocket with echoring.
package main

import (
	"log"
)

func main() {
	if err := runClient(); err != nil {
		log.Fatal(err)
	}
}
