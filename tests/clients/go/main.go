// Runs one job by the Go client that oapi-codegen makes of docs/openapi.json, and prints what it saw.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"crofter.io/tests/clients/go/crofter"
)

// must ends the program where a call had no answer.
func must[T any](answer T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return answer
}

func check(ok bool, what ...any) {
	if !ok {
		log.Fatalf("%#v", what)
	}
}

func of[T any](value T) *T { return &value }

func main() {
	ctx := context.Background()
	withKey := crofter.WithRequestEditorFn(func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Getenv("CROFTER_KEY"))
		return nil
	})
	client := must(crofter.NewClientWithResponses(os.Getenv("CROFTER_URL"), withKey))

	refused := func(body crofter.JobCreate, problem func(*crofter.SubmitJobResponse) *crofter.Problem) []any {
		answer := must(client.SubmitJobWithResponse(ctx, nil, body))
		refusal := problem(answer)
		check(refusal != nil && refusal.Code.Valid() && refusal.Detail != "", answer.Status())
		return []any{refusal.Status, refusal.Code}
	}

	who := must(client.WhoamiWithResponse(ctx, nil))
	check(who.JSON200 != nil, who.Status())
	caller, isKey := must(who.JSON200.ValueByDiscriminator()).(crofter.KeyCaller)
	check(isKey, who.Status())

	invalid := refused(crofter.JobCreate{}, func(answer *crofter.SubmitJobResponse) *crofter.Problem {
		return answer.ApplicationproblemJSON422
	})
	work := crofter.JobCreate{
		Image:      of("crofter.test/busybox:1"),
		Resources:  &crofter.Resources{Cpu: of("100m"), Memory: of("64Mi")},
		Parameters: &map[string]string{"RUN_SECONDS": "1"},
	}
	made := must(client.SubmitJobWithResponse(ctx, nil, work))
	check(made.JSON201 != nil, made.Status())
	job := made.JSON201

	deadline := time.Now().Add(time.Minute)
	for job.FinishedAt == nil {
		check(time.Now().Before(deadline), *job)
		time.Sleep(200 * time.Millisecond)
		read := must(client.GetJobWithResponse(ctx, job.Id, nil))
		check(read.JSON200 != nil, read.Status())
		job = read.JSON200
	}
	check(*job.Status == crofter.JobStatusCompleted && *job.ExitCode == 0, *job)

	completed := &crofter.ListJobsParams{Limit: of(int64(10)), Status: of(crofter.JobStatusCompleted)}
	page := must(client.ListJobsWithResponse(ctx, completed))
	check(page.JSON200 != nil, page.Status())
	var listed []string
	for _, one := range page.JSON200.Jobs {
		listed = append(listed, one.Id)
	}
	saw := must(json.Marshal(map[string]any{
		"caller":      caller.Kind,
		"invalid":     invalid,
		"job":         job.Id,
		"status":      job.Status,
		"cpu":         job.Resources.Cpu,
		"listed":      listed,
		"next_cursor": page.JSON200.NextCursor,
		"refused": refused(work, func(answer *crofter.SubmitJobResponse) *crofter.Problem {
			return answer.ApplicationproblemJSON429
		}),
	}))
	fmt.Println(string(saw))
}
