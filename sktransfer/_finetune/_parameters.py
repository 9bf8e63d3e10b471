"""Parameters the way scikit-learn has them, on a class that skorch would have otherwise.

It must not know what any of them means.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from sktransfer._utils.sklearn_compat import validate_parameter_constraints


class Parameters:
    """Mixin: what the constructor was given, and ``component__name`` for skorch's components.

    skorch takes every attribute without a trailing underscore for a parameter, accepts any
    ``prefix__name``, and re-initializes a fitted net when one is set; scikit-learn wants
    constructors that only store, errors for unknown names, and nothing done before ``fit``.
    """

    prefixes_: list[str]
    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    def _store_component_settings(self, settings: dict[str, Any]) -> None:
        """Keep ``optimizer__momentum=0.9`` and the like; anything else is a misspelling."""
        for name, value in settings.items():
            # The name of the catch-all itself: scikit-learn tries it on every constructor, which
            # must not raise. ``fit`` does.
            if name != "skorch_kwargs":
                self._check_component_setting(name)
            object.__setattr__(self, name, value)

    def _check_component_setting(self, name: str) -> None:
        prefix, separator, rest = name.partition("__")
        if not separator or not rest or prefix not in self.prefixes_:
            known = ", ".join(f"{each}__*" for each in sorted(self.prefixes_))
            raise TypeError(
                f"{type(self).__name__}() got an unexpected keyword argument {name!r}. Its own "
                f"parameters are in its signature; those of skorch's components are {known}."
            )

    def _component_settings(self) -> list[str]:
        return sorted(
            name
            for name in vars(self)
            if "__" in name and name.partition("__")[0] in self.prefixes_
        )

    def _get_param_names(self) -> list[str]:
        signature = BaseEstimator._get_param_names.__func__(type(self))
        odd = ["skorch_kwargs"] if "skorch_kwargs" in vars(self) else []
        return [*signature, *self._component_settings(), *odd]

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Parameters of this estimator and, with ``deep``, of estimators among them."""
        return BaseEstimator.get_params(self, deep=deep)

    def set_params(self, **params: Any) -> Any:
        """Set parameters; they count from the next ``fit`` on.

        Parameters
        ----------
        **params : dict
            Own ones, nested ones (``augmentation__rotation_range``) and those of skorch's
            components (``optimizer__momentum``).

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        own = {}
        for name, value in params.items():
            prefix, separator, rest = name.partition("__")
            nested = separator and hasattr(getattr(self, prefix, None), "set_params")
            if separator and rest and prefix in self.prefixes_ and not nested:
                object.__setattr__(self, name, value)
            else:
                own[name] = value
        BaseEstimator.set_params(self, **own)
        return self

    def _validate_params(self) -> None:
        if "skorch_kwargs" in vars(self):
            self._check_component_setting("skorch_kwargs")
        # skorch has a method of this name that checks its own names; scikit-learn's is wanted.
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )

    def get_metadata_routing(self) -> Any:
        """What ``fit`` asks for, in the terms of scikit-learn's metadata routing."""
        return BaseEstimator.get_metadata_routing(self)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return BaseEstimator.__repr__(self, N_CHAR_MAX)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
