"""Whether a job whose files are checked may enter the queue, and if not, why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ftd.core.dataset import MIN_EXAMPLES, Fault, Report, first_error, too_few
from ftd.core.hyperparams import Hyperparameters, Requested, resolve
from ftd.core.job import JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    hyperparameters: Hyperparameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """`faults` are those of the file at fault that were told in full, of `fault_count` in all;
    none when the data is good and only too little."""

    error: JobError
    faults: tuple[Fault, ...] = ()
    fault_count: int = 0

    def data(self) -> dict[str, object]:
        """The error event's data."""
        data: dict[str, object] = {"code": self.error.code, "param": self.error.param}
        if self.faults:
            data["errors"] = [asdict(fault) for fault in self.faults]
            data["error_count"] = self.fault_count
        return data


def judge(requested: Requested, reports: Mapping[str, Report]) -> Admitted | Rejected:
    """`reports` maps "training_file", and "validation_file" if there is one, to its report."""
    for param, report in reports.items():
        error = first_error(report, param)
        if error is not None:
            return Rejected(error=error, faults=report.faults, fault_count=report.fault_count)
        if report.examples < MIN_EXAMPLES[param]:
            return Rejected(error=too_few(report.examples, param))
    return Admitted(hyperparameters=resolve(requested, reports["training_file"].examples))
