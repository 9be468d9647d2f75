"""Routes of the scheduler: jobs, sweeps, infras, pools, orphans."""

from __future__ import annotations

from cairn_gateway.http.route import Route

TEAM = "teams/{team}"
JOB = "teams/{team}/jobs/{job}"
SWEEP = "teams/{team}/sweeps/{sweep}"

ROUTES = (
    Route(
        method="GET",
        path="/teams/{team}/jobs",
        rpc="SchedulerService/ListJobs",
        summary="Jobs of a team, newest first.",
        bind={"parent": TEAM},
        refs={"sweep": "teams/{team}/sweeps/{}"},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs",
        rpc="SchedulerService/CreateJob",
        summary="Queue a job. The same request_id again gives the same job.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/jobs/{job}",
        rpc="SchedulerService/GetJob",
        summary="A job with its attempts.",
        bind={"name": JOB},
    ),
    Route(
        method="GET",
        path="/teams/{team}/jobs/{job}/timeline",
        rpc="SchedulerService/GetTimeline",
        summary="What happened to a job from its submission on, with causes, times and durations.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs:batchCreate",
        rpc="SchedulerService/BatchCreateJobs",
        summary="Queue up to 1,000 jobs, all or none.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:cancel",
        rpc="SchedulerService/CancelJob",
        summary="Stop a job. It is CANCELLED once nothing of it runs any more.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:hold",
        rpc="SchedulerService/HoldJob",
        summary="Keep a job out of the queue until it is released; one that runs is preempted first.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:release",
        rpc="SchedulerService/ReleaseJob",
        summary="Put a held job back into the queue.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:preempt",
        rpc="SchedulerService/PreemptJob",
        summary="Take a job's place; it goes on later, in the same run, from its checkpoint.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:rerun",
        rpc="SchedulerService/RerunJob",
        summary="Queue a new job of the same code, variables, environment and inputs.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs/{job}:resume",
        rpc="SchedulerService/ResumeJob",
        summary="Queue a new job that goes on from a checkpoint, in a run of its own.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/teams/{team}/sweeps",
        rpc="SchedulerService/CreateSweep",
        summary="Queue one job for each point of a grid, all or none.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/sweeps/{sweep}",
        rpc="SchedulerService/GetSweep",
        summary="A sweep with its jobs.",
        bind={"name": SWEEP},
    ),
    Route(
        method="POST",
        path="/teams/{team}/jobs:plan",
        rpc="InfraService/PlanJob",
        summary="Where a task would go, and its price per hour. Nothing is stored.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/jobs/{job}/explanation",
        rpc="OutlookService/ExplainJob",
        summary="Why a job waits: the limit, who holds it, and changes each of which lets it start now.",
        bind={"name": JOB},
    ),
    Route(
        method="POST",
        path="/queue:whatif",
        rpc="OutlookService/WhatIf",
        summary="Who would start and who would lose their place, were a pool lost or another tree to rule.",
    ),
    Route(
        method="GET",
        path="/queue:snapshot",
        rpc="OutlookService/GetSnapshot",
        summary="All that a decision is made from, as a file.",
    ),
    Route(
        method="GET",
        path="/infras",
        rpc="InfraService/ListInfras",
        summary="Where jobs can run, with GPUs and prices; for what does not work the reason and the remedy.",
    ),
    Route(
        method="GET",
        path="/pools",
        rpc="SchedulerService/ListPools",
        summary="Places to run, and how much of them is free.",
    ),
    Route(
        method="GET",
        path="/orphans",
        rpc="OrphanService/ListOrphans",
        summary="What exists at the places to run and belongs to no living attempt.",
    ),
    Route(
        method="POST",
        path="/orphans:remove",
        rpc="OrphanService/RemoveOrphans",
        summary="Begin to take that away.",
    ),
)
