// Prints roots and proofs of golang.org/x/mod/sumdb/tlog, and notes of sumdb/note, as JSON lines.
// Leaf n is the hash of the 4 bytes of n, big-endian. What it printed once is go-tlog-vectors.jsonl; to print it again:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run go_tlog_vectors.go   (Debian: golang-go golang-golang-x-mod-dev)
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type store []tlog.Hash

func (s store) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		out[i] = s[n]
	}
	return out, nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func text(hashes []tlog.Hash) []string {
	out := []string{}
	for _, h := range hashes {
		out = append(out, base64.StdEncoding.EncodeToString(h[:]))
	}
	return out
}

func main() {
	const most = 70000
	random := rand.New(rand.NewSource(20261121))
	var hashes store
	for n := int64(0); n < most; n++ {
		var leaf [4]byte
		binary.BigEndian.PutUint32(leaf[:], uint32(n))
		more, err := tlog.StoredHashes(n, leaf[:], hashes)
		must(err)
		hashes = append(hashes, more...)
	}
	sizes := []int64{1, 2, 3, 255, 256, 257, 511, 512, 65535, 65536, 65537, most}
	for len(sizes) < 60 {
		sizes = append(sizes, 1+random.Int63n(1<<uint(1+random.Intn(16))))
	}
	out := json.NewEncoder(os.Stdout)
	private, public, err := note.GenerateKey(random, "vectors.test/log")
	must(err)
	signer, err := note.NewSigner(private)
	must(err)
	for _, size := range sizes {
		root, err := tlog.TreeHash(size, hashes)
		must(err)
		index, first := random.Int63n(size), 1+random.Int63n(size)
		older, err := tlog.TreeHash(first, hashes)
		must(err)
		record, err := tlog.ProveRecord(size, index, hashes)
		must(err)
		tree, err := tlog.ProveTree(size, first, hashes)
		must(err)
		signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("vectors.test/log\n%d\n%s\n", size, root)}, signer)
		must(err)
		must(out.Encode(map[string]interface{}{
			"size": size, "root": root.String(), "index": index, "inclusion": text(record),
			"first": first, "first_root": older.String(), "consistency": text(tree),
			"checkpoint": string(signed), "signer": private, "verifier": public,
		}))
	}
}
