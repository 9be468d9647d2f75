"""Routes of the tracker: experiments, runs, what they logged, and how they compare."""

from __future__ import annotations

from cairn_gateway.http.route import Route

TEAM = "teams/{team}"
RUN = "teams/{team}/runs/{run}"
ANY_RUN = "teams/{team}/runs/{}"

ROUTES = (
    Route(
        method="GET",
        path="/teams/{team}/experiments",
        rpc="TrackerService/ListExperiments",
        summary="Experiments of a team.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs",
        rpc="TrackerService/ListRuns",
        summary="Runs of a team, newest first.",
        bind={"parent": TEAM},
        refs={"sweep": "teams/{team}/sweeps/{}"},
    ),
    Route(
        method="POST",
        path="/teams/{team}/runs",
        rpc="TrackerService/CreateRun",
        summary="Begin a run that no job runs, such as one on a laptop.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/runs:compare",
        rpc="TrackerService/CompareRuns",
        summary="Runs side by side: what differs, last and best values.",
        bind={"parent": TEAM},
        refs={"runs": ANY_RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}",
        rpc="TrackerService/GetRun",
        summary="A run with params, attempts and the summary of each metric.",
        bind={"name": RUN},
    ),
    Route(
        method="PATCH",
        path="/teams/{team}/runs/{run}",
        rpc="TrackerService/UpdateRun",
        summary="Change a run's display_name, tags, group or notes; what the body has is what changes.",
        bind={"run.name": RUN},
        resource="run",
        etag="run.etag",
    ),
    Route(
        method="GET",
        path="/teams/{team}/series",
        rpc="TrackerService/QuerySeries",
        summary="Metrics over steps, of up to 100 runs and 100 keys, cut into buckets.",
        bind={"parent": TEAM},
        refs={"runs": ANY_RUN},
        rename={"run": "runs", "key": "keys"},
    ),
    Route(
        method="GET",
        path="/teams/{team}/series/tail",
        rpc="TrackerService/TailSeries",
        summary="What is new of metrics since a cursor: for live curves. Without one: a cursor.",
        bind={"parent": TEAM},
        refs={"runs": ANY_RUN},
        rename={"run": "runs", "key": "keys"},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/logs",
        rpc="TrackerService/ListLogLines",
        summary="Console lines in order, with a cursor to go on from.",
        bind={"parent": RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/media",
        rpc="MediaService/ListMedia",
        summary="Histograms, tables and images by key and step; `latest_only`: of each key the last.",
        bind={"parent": RUN},
    ),
    Route(
        method="GET",
        path="/teams/{team}/runs/{run}/media/content",
        rpc="MediaService/GetMedia",
        summary="One histogram, table or image with its bytes, or where they are.",
        bind={"parent": RUN},
    ),
)
