// Program loki-select tells which log lines a query of Loki selects, with what Loki's queriers run: the matchers of streams and
// the pipeline of lines. There is no store: time range and limit of lines are no part of it.
//
// Its argument is a file of JSON lines: first the query, `{"query": "..."}`, then one for each log line with the labels of its
// stream, `{"labels": {...}, "line": "..."}`. It writes the numbers of the selected lines, counted from 0.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grafana/loki/v3/pkg/logql/log"
	"github.com/grafana/loki/v3/pkg/logql/syntax"
	"github.com/prometheus/prometheus/model/labels"
)

type entry struct {
	Labels map[string]string `json:"labels"`
	Line   string            `json:"line"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loki-select:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("it wants one argument: a file of JSON lines")
	}
	file, err := os.Open(arguments[0])
	if err != nil {
		return err
	}
	defer file.Close()
	read := json.NewDecoder(file)
	read.DisallowUnknownFields()
	var asked struct {
		Query string `json:"query"`
	}
	if err := read.Decode(&asked); err != nil {
		return fmt.Errorf("no query: %w", err)
	}
	selector, err := syntax.ParseLogSelector(asked.Query, true)
	if err != nil {
		return err
	}
	pipeline, err := selector.Pipeline()
	if err != nil {
		return err
	}
	for number := int64(0); ; number++ {
		var line entry
		if err := read.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("log line %d: %w", number, err)
		}
		if selects(selector, pipeline, number, line) {
			fmt.Println(number)
		}
	}
}

func selects(selector syntax.LogSelectorExpr, pipeline log.Pipeline, at int64, line entry) bool {
	stream := labels.FromMap(line.Labels)
	for _, matcher := range selector.Matchers() {
		if !matcher.Matches(stream.Get(matcher.Name)) {
			return false
		}
	}
	_, _, selected := pipeline.ForStream(stream).Process(at, []byte(line.Line), labels.EmptyLabels())
	return selected
}
