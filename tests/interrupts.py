"""Ctrl-C at a known moment."""


def interrupted_from(monkeypatch, module, number):
    """Ctrl-C in the third iteration of call ``number``, from 1, of the engine by ``module``; returns the calls."""
    calls, original = [], module.levenberg_marquardt

    def run(*given, callback=None, **options):
        calls.append(1)

        def stop(progress):
            if len(calls) == number and progress.iteration == 3:
                raise KeyboardInterrupt

        return original(*given, callback=stop, **options)

    monkeypatch.setattr(module, "levenberg_marquardt", run)
    return calls
